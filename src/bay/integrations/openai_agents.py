"""Sandboxes of Bay for agents of the OpenAI Agents SDK: `SandboxRunConfig(client=BaySandboxClient(), ...)`.

A session is a sandbox. Closing the session stops its compute and keeps its files, `resume` finds it again,
and `client.delete` removes it.
"""

import io
import uuid
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from agents.sandbox import Manifest
from agents.sandbox.errors import (
    ExecTimeoutError,
    ExecTransportError,
    ExposedPortUnavailableError,
    WorkspaceArchiveReadError,
    WorkspaceArchiveWriteError,
    WorkspaceReadNotFoundError,
    WorkspaceWriteTypeError,
)
from agents.sandbox.session.base_sandbox_session import BaseSandboxSession
from agents.sandbox.session.pty_types import PtyExecUpdate
from agents.sandbox.session.runtime_helpers import RESOLVE_WORKSPACE_PATH_HELPER, RuntimeHelperScript
from agents.sandbox.session.sandbox_client import BaseSandboxClient, BaseSandboxClientOptions
from agents.sandbox.session.sandbox_session import SandboxSession
from agents.sandbox.session.sandbox_session_state import SandboxSessionState
from agents.sandbox.snapshot import SnapshotBase, SnapshotSpec, resolve_snapshot
from agents.sandbox.types import ExecResult, ExposedPortEndpoint, User

import bay
from bay.integrations.openai_agents_pty import AttachedCommands

READY_S = 120.0
LISTEN_S = 30.0
"""How long the address of a port waits for its listener, of whose host name only the server knows."""
MAX_OUTPUT_BYTES = 16 << 20
MAX_ARCHIVE_BYTES = 1 << 30


class BayClientOptions(BaseSandboxClientOptions):
    """The sandbox of a session; fields left out are the profile's. Exposed ports are open to everybody."""

    type: Literal["bay"] = "bay"
    profile: str | None = None
    image: str | None = None
    env: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    ttl: int | None = None
    network: Literal["none"] | None = None
    exposed_ports: tuple[int, ...] = ()


class BaySessionState(SandboxSessionState):
    """A session as it is stored: the sandbox, and the options of another one should it be gone."""

    type: Literal["bay"] = "bay"
    sandbox_id: str
    options: BayClientOptions


class BaySession(BaseSandboxSession):
    """One sandbox."""

    state: BaySessionState

    def __init__(self, state: BaySessionState, box: bay.AsyncBox) -> None:
        self.state = state
        self.box = box
        self._commands = AttachedCommands(box)

    async def exec(
        self,
        *command: str | Path,
        timeout: float | None = None,
        shell: bool | list[str] = True,
        user: str | User | None = None,
    ) -> ExecResult:
        """Run a command to its end, as a user of the sandbox where one is named."""
        argv = self._prepare_exec_command(*command, shell=shell, user=None)
        return await self._run(argv, timeout, _name(user))

    def supports_pty(self) -> bool:
        """Whether commands may go on while the agent does something else, on a terminal too."""
        return True

    async def pty_exec_start(
        self,
        *command: str | Path,
        timeout: float | None = None,
        shell: bool | list[str] = True,
        user: str | User | None = None,
        tty: bool = False,
        yield_time_s: float | None = None,
        max_output_tokens: int | None = None,
    ) -> PtyExecUpdate:
        """Start a command and give what it prints within `yield_time_s`; it may go on after that."""
        return await self._commands.start(
            self._prepare_exec_command(*command, shell=shell, user=None),
            tty=tty,
            timeout_s=timeout,
            user=_name(user),
            env=await self.state.manifest.environment.resolve() or None,
            cwd=self._cwd(),
            yield_time_s=yield_time_s,
            most=max_output_tokens,
        )

    async def pty_write_stdin(
        self,
        *,
        session_id: int,
        chars: str,
        yield_time_s: float | None = None,
        max_output_tokens: int | None = None,
    ) -> PtyExecUpdate:
        """Give a command on a terminal input, and any command's output since the last look."""
        return await self._commands.write(session_id, chars, yield_time_s, max_output_tokens)

    async def pty_terminate_all(self) -> None:
        """End the commands that go on."""
        await self._commands.end_all()

    async def _exec_internal(self, *command: str | Path, timeout: float | None = None) -> ExecResult:
        return await self._run([str(part) for part in command], timeout, None)

    async def _run(
        self,
        argv: list[str],
        timeout_s: float | None,
        user: str | None,
        stdin: bytes | None = None,
        most: int = MAX_OUTPUT_BYTES,
    ) -> ExecResult:
        env = await self.state.manifest.environment.resolve()
        try:
            result = await self.box.run(
                argv, timeout_s=timeout_s, user=user, env=env or None, stdin=stdin, max_output_bytes=most,
                cwd=self._cwd(),
            )  # fmt: skip
        except bay.BayError as error:
            raise ExecTransportError(command=argv, context={"detail": str(error)}, cause=error) from error
        if result.timed_out:
            raise ExecTimeoutError(command=argv, timeout_s=timeout_s)
        if result.returncode is None or (most > MAX_OUTPUT_BYTES and result.omitted_bytes):
            raise ExecTransportError(
                command=argv, context={"detail": f"{result.omitted_bytes} bytes are lost"}
            )
        return ExecResult(stdout=result.stdout_bytes, stderr=result.stderr_bytes, exit_code=result.returncode)

    def _cwd(self) -> str:
        return self.state.manifest.root if self.state.workspace_root_ready else "/"

    async def _prepare_backend_workspace(self) -> None:
        await self.box.files.mkdir(self.state.manifest.root)
        self.state.workspace_root_ready = True

    async def _validate_path_access(self, path: Path | str, *, for_write: bool = False) -> Path:
        return await self._validate_remote_path_access(path, for_write=for_write)

    def _runtime_helpers(self) -> tuple[RuntimeHelperScript, ...]:
        return (RESOLVE_WORKSPACE_PATH_HELPER,)

    def _current_runtime_helper_cache_key(self) -> object | None:
        return self.state.sandbox_id

    async def read(self, path: Path, *, user: str | User | None = None) -> io.IOBase:
        """The contents of a file, as a user of the sandbox where one is named."""
        if user is not None:
            await self._check_read_with_exec(path, user=user)
        return io.BytesIO(await self._read(path, None))

    async def _read_bounded(self, path: Path, *, max_bytes: int) -> bytes:
        return await self._read(path, max_bytes)

    async def _read(self, path: Path, most: int | None) -> bytes:
        where = await self._validate_path_access(path)
        try:
            if most is None:
                return await self.box.files.read(where.as_posix())
            return await self.box.files.read(where.as_posix(), 0, most)
        except bay.RangeNotSatisfiable:  # it is empty
            return b""
        except bay.FileMissing as error:
            raise WorkspaceReadNotFoundError(path=path, cause=error) from error
        except bay.BayError as error:
            raise WorkspaceArchiveReadError(path=path, cause=error) from error

    async def write(self, path: Path, data: io.IOBase, *, user: str | User | None = None) -> None:
        """Write a file, with the directories that are missing."""
        if user is not None:
            await self._check_write_with_exec(path, user=user)
        where = await self._validate_path_access(path, for_write=True)
        try:
            await self.box.files.write(where.as_posix(), _bytes_of(path, data))
        except bay.BayError as error:
            raise WorkspaceArchiveWriteError(path=where, cause=error) from error

    async def running(self) -> bool:
        """Whether the sandbox is there and can run commands."""
        try:
            return (await self.box.refresh()).status in ("ready", "idle", "starting")
        except bay.BayError:
            return False

    async def persist_workspace(self) -> io.IOBase:
        """The workspace as a tar, without the paths that the SDK leaves out of snapshots."""
        root = self._workspace_root_path()
        left_out = [f"--exclude=./{path.as_posix()}" for path in self._persist_workspace_skip_relpaths()]
        packed = await self._run(
            ["tar", "-C", root.as_posix(), *left_out, "-cf", "-", "."], None, None, most=MAX_ARCHIVE_BYTES
        )
        if not packed.ok():
            detail = packed.stderr.decode(errors="replace")
            raise WorkspaceArchiveReadError(path=root, context={"detail": detail})
        return io.BytesIO(packed.stdout)

    async def hydrate_workspace(self, data: io.IOBase) -> None:
        """Put a tar's files into the workspace; Bay refuses members that lead out of it."""
        root = self._workspace_root_path()
        try:
            await self.box.files.write_archive(_bytes_of(root, data), root.as_posix())
        except bay.BayError as error:
            raise WorkspaceArchiveWriteError(path=root, cause=error) from error

    async def _resolve_exposed_port(self, port: int) -> ExposedPortEndpoint:
        try:
            url = urlsplit((await self.box.wait_for(port, LISTEN_S)).url or "")
        except bay.BayError as error:
            raise ExposedPortUnavailableError(
                port=port, exposed_ports=self.state.exposed_ports, reason="backend_unavailable", cause=error
            ) from error
        tls = url.scheme == "https"
        return ExposedPortEndpoint(host=url.hostname or "", port=url.port or (443 if tls else 80), tls=tls)

    async def _shutdown_backend(self) -> None:
        await self.box.stop()


class BaySandboxClient(BaseSandboxClient[BayClientOptions]):
    """Makes, finds and deletes sandboxes of one Bay, by default that of `BAY_URL` and `BAY_API_KEY`."""

    backend_id = "bay"
    supports_default_options = True

    def __init__(self, client: bay.AsyncClient | None = None) -> None:
        self._client = client or bay.AsyncClient()

    async def create(
        self,
        *,
        snapshot: SnapshotSpec | SnapshotBase | None = None,
        manifest: Manifest | None = None,
        options: BayClientOptions | None = None,
    ) -> SandboxSession:
        """A session on a new sandbox."""
        chosen = options or BayClientOptions()
        wanted = self._validate_manifest_for_create(manifest or Manifest())
        session_id = uuid.uuid4()
        box = await self._box(chosen)
        state = BaySessionState(
            session_id=session_id,
            manifest=wanted,
            snapshot=resolve_snapshot(snapshot, str(session_id)),
            sandbox_id=box.id,
            options=chosen,
            exposed_ports=chosen.exposed_ports,
        )
        return self._wrap_session(BaySession(state, box))

    async def delete(self, session: SandboxSession) -> SandboxSession:
        """Delete the session's sandbox, with its files."""
        inner = session._inner
        if not isinstance(inner, BaySession):
            raise TypeError("BaySandboxClient.delete takes a session that a BaySandboxClient made")
        await inner.box.delete()
        return session

    async def resume(self, state: SandboxSessionState) -> SandboxSession:
        """The session on its sandbox, or on a new one when that is gone."""
        if not isinstance(state, BaySessionState):
            raise TypeError(
                "BaySandboxClient.resume takes the state of a session that a BaySandboxClient made"
            )
        state.assert_path_grants_rebound()
        try:
            box = await self._client.sandboxes.get(state.sandbox_id)
            await box.start(READY_S)
            found = True
        except (bay.NotFound, bay.SandboxExpired):
            box = await self._box(state.options)
            state.sandbox_id, state.workspace_root_ready, found = box.id, False, False
        session = BaySession(state, box)
        session._set_start_state_preserved(found, system=False)
        return self._wrap_session(session)

    def deserialize_session_state(self, payload: dict[str, object]) -> SandboxSessionState:
        """A state that `serialize_session_state` stored."""
        return self._deserialize_session_state_payload(payload, BaySessionState)

    async def _box(self, options: BayClientOptions) -> bay.AsyncBox:
        given: dict[str, Any] = options.model_dump(exclude={"exposed_ports"}, exclude_none=True)
        del given["type"]
        ports = [bay.PortSettings(port=port, access="public") for port in options.exposed_ports]
        return await self._client.sandboxes.create(**given, ports=ports or None, wait=READY_S)


def _name(user: str | User | None) -> str | None:
    return user.name if isinstance(user, User) else user


def _bytes_of(path: Path, data: io.IOBase) -> bytes:
    """The bytes of a file of the SDK. Raises WorkspaceWriteTypeError for one that gives something else."""
    payload: object = data.read()
    if isinstance(payload, str):
        return payload.encode()
    if not isinstance(payload, bytes | bytearray):
        raise WorkspaceWriteTypeError(path=path, actual_type=type(payload).__name__)
    return bytes(payload)
