"""Sandboxes as environments of Inspect: `Task(sandbox="bay")` or `sandbox=("bay", BayConfig(...))`.

Inspect finds this module by its entry point. Bay's URL and key come from `BAY_URL` and `BAY_API_KEY`.
"""

import shlex
from typing import Any, Literal, overload

from inspect_ai.util import (
    ExecResult,
    OutputLimitExceededError,
    SandboxConnection,
    SandboxEnvironment,
    SandboxEnvironmentConfigType,
    SandboxEnvironmentLimits,
    SandboxUnavailableError,
    SandboxUserUnsupportedError,
    sandboxenv,
)
from pydantic import BaseModel, ConfigDict

import bay

READY_S = 120.0
LEASE_S = 24 * 3600
"""Lifetime of a sandbox whose evaluation was killed."""
LABEL = "inspect-task"
_CANNOT_RUN = 126
_RETRIES_S = (60, 30)


class BayConfig(BaseModel):
    """The sandbox of each sample; fields left out are the profile's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: str | None = None
    image: str | None = None
    env: dict[str, str] | None = None
    cpus: float | None = None
    memory_mb: int | None = None
    ttl: int = LEASE_S
    network: Literal["none"] | None = None

    def __hash__(self) -> int:  # Inspect keeps configurations as keys, which `env` is not
        return hash(self.model_dump_json())


@sandboxenv(name="bay")
class BaySandboxEnvironment(SandboxEnvironment):
    """One sandbox for each sample; it is deleted with the sample."""

    def __init__(self, client: bay.AsyncClient, box: bay.AsyncBox) -> None:
        super().__init__()
        self._client = client
        self.box = box

    @classmethod
    async def sample_init(
        cls, task_name: str, config: SandboxEnvironmentConfigType | None, metadata: dict[str, str]
    ) -> dict[str, SandboxEnvironment]:
        """Create the sandbox of a sample, and wait until it is ready."""
        if config is not None and not isinstance(config, BayConfig):
            raise bay.BadRequest("the sandbox `bay` takes a BayConfig and no file; see docs/frameworks.md")
        options: dict[str, Any] = (config or BayConfig()).model_dump(exclude_none=True)
        client = bay.AsyncClient()
        try:
            box = await client.sandboxes.create(**options, labels={LABEL: task_name[:63]}, wait=READY_S)
        except BaseException:
            await client.aclose()
            raise
        return {"default": cls(client, box)}

    @classmethod
    async def sample_cleanup(
        cls,
        task_name: str,
        config: SandboxEnvironmentConfigType | None,
        environments: dict[str, SandboxEnvironment],
        interrupted: bool,
    ) -> None:
        """Delete the sandboxes of a sample."""
        for environment in environments.values():
            own = environment.as_type(cls)
            async with own._client:
                await own.box.delete()

    @classmethod
    async def cli_cleanup(cls, id: str | None) -> None:
        """Delete the sandbox of that id, or all that tasks of Inspect made."""
        async with bay.AsyncClient() as client:
            if id is not None:
                await (await client.sandboxes.get(id)).delete()
                return
            boxes = [box async for box in client.sandboxes.list() if LABEL in box.info.labels]
            for box in boxes:
                await box.delete()

    @classmethod
    def config_deserialize(cls, config: dict[str, Any]) -> BaseModel:
        """The configuration that a log of an evaluation holds."""
        return BayConfig.model_validate(config)

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        """Run a command. Raises TimeoutError after the last of its attempts, and as Inspect documents."""
        limits = [timeout, *(min(timeout, again) for again in _RETRIES_S)] if timeout else [None]
        for limit in limits if timeout_retry else limits[:1]:
            result = await self._run(cmd, input, cwd, env, user, limit)
            if not result.timed_out:
                return _checked(result)
        raise TimeoutError(f"the command ran for longer than {timeout} s and was ended: {shlex.join(cmd)}")

    async def _run(
        self,
        cmd: list[str],
        stdin: str | bytes | None,
        cwd: str | None,
        env: dict[str, str] | None,
        user: str | None,
        timeout_s: float | None,
    ) -> bay.RunResult:
        try:
            return await self.box.run(
                cmd, stdin=stdin, cwd=cwd, env=env, user=user, timeout_s=timeout_s,
                max_output_bytes=2 * SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE,
            )  # fmt: skip
        except bay.CallerError as error:
            if user is not None and (error.details.get("field") == "user"):
                raise SandboxUserUnsupportedError(error.message) from error
            raise _as_builtin(error) from error
        except (bay.HostError, bay.ConnectionFailed) as error:
            raise SandboxUnavailableError(str(error)) from error

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """Write a file, with the directories that are missing."""
        try:
            await self.box.files.write(file, contents)
        except bay.CallerError as error:
            raise _as_builtin(error) from error

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...

    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        """The contents of a file. Raises OutputLimitExceededError for one over Inspect's limit."""
        limit = SandboxEnvironmentLimits.MAX_READ_FILE_SIZE
        try:
            data = await self.box.files.read(file, 0, limit + 1)
        except bay.RangeNotSatisfiable:  # it is empty
            data = b""
        except bay.CallerError as error:
            raise _as_builtin(error) from error
        if len(data) > limit:
            raise OutputLimitExceededError(
                limit_str=SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, truncated_output=None
            )
        return data.decode() if text else data

    async def connection(self, *, user: str | None = None) -> SandboxConnection:
        """The command that opens a terminal in the sandbox."""
        if user is not None:
            raise NotImplementedError("`bay shell` opens a terminal as the sandbox's own user alone")
        return SandboxConnection(type="bay", command=f"bay shell {self.box.id}", container=self.box.id)


def _checked(result: bay.RunResult) -> ExecResult[str]:
    limit = SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE
    if result.omitted_bytes or max(len(result.stdout_bytes), len(result.stderr_bytes)) > limit:
        raise OutputLimitExceededError(
            limit_str=SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR,
            truncated_output=result.output_bytes[-limit:].decode(errors="replace"),
        )
    if result.returncode == _CANNOT_RUN and "permission denied" in result.stderr.lower():
        raise PermissionError(result.stderr)
    if result.returncode is None:
        raise SandboxUnavailableError("the sandbox stopped under the command")
    return ExecResult(
        success=result.returncode == 0,
        returncode=result.returncode,
        stdout=result.stdout,
        stderr=result.stderr,
    )


def _as_builtin(error: bay.CallerError) -> Exception:
    """The exception that Inspect's contract names for an error of Bay's."""
    match error:
        case bay.FileMissing():
            return FileNotFoundError(error.message)
        case bay.Forbidden():
            return PermissionError(error.message)
        case bay.NotFound() | bay.Conflict():
            return SandboxUnavailableError(error.message)
        case _ if error.details.get("reason") == "is_directory":
            return IsADirectoryError(error.message)
        case _:
            return error
