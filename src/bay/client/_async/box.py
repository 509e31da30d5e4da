"""A sandbox object, which runs commands and keeps files."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime
from typing import Any, Self, Unpack

import httpx

from bay.client._async.attach import AsyncAttachment
from bay.client._async.browser import AsyncBrowser
from bay.client._async.checkpoints import AsyncCheckpoints
from bay.client._async.events import events
from bay.client._async.execs import AsyncExecs, AsyncProc
from bay.client._async.files import AsyncFiles
from bay.client._async.history import AsyncHistory
from bay.client._async.http import AsyncHttp
from bay.client._async.kernels import AsyncKernels, AsyncPython
from bay.client._async.network import AsyncNetwork
from bay.client._async.ports import AsyncPorts
from bay.client._async.services import AsyncServices
from bay.client._async.tunnel import AsyncTunnel
from bay.client._calls import COPY_S, Call, Method, given
from bay.client._frames import Door, Progress
from bay.client._options import SpawnOptions, UpdateOptions, update_body
from bay.client._paths import ref
from bay.client._results import DEFAULT_OUTPUT_BYTES, Collected, Keep, RunResult
from bay.client._seam import async_cleanup
from bay.client._waits import RESUME_S
from bay.clock import to_rfc3339
from bay.errors import BayError, NotFound
from bay.models import (
    Checkpoint,
    Event,
    Port,
    Process,
    Sandbox,
    SandboxMetrics,
    SandboxUsage,
    ShellResult,
)


class AsyncBox(AsyncCheckpoints, AsyncHistory):
    """A sandbox.

    `info` is what was last heard of it; `files`, `execs`, `kernels`, `python`, `browser` and `services` are
    what is in it. `network` is what it reaches, `ports` where it is reached. Any call that needs compute
    wakes the sandbox, under the same id.
    """

    def __init__(self, http: AsyncHttp, info: Sandbox) -> None:
        super().__init__(http, info.id)
        self.info = info
        self.files = AsyncFiles(http, info.id)
        self.execs = AsyncExecs(http, info.id)
        self.kernels = AsyncKernels(http, info.id)
        self.python = AsyncPython(http, info.id)
        self.browser = AsyncBrowser(http, info.id)
        self.services = AsyncServices(http, info.id)
        self.network = AsyncNetwork(http, info.id)
        self.ports = AsyncPorts(http, info.id)

    @property
    def id(self) -> str:
        """Its id, ``sandbox-…``."""
        return self.info.id

    @property
    def name(self) -> str | None:
        """Its name, None without one."""
        return self.info.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name or self.id} {self.info.status}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Delete it, whatever happened in the block."""
        with async_cleanup():
            await self.delete()

    async def refresh(self) -> Sandbox:
        """Ask the server how it is; sets and returns `info`."""
        return await self._ask(Call.get(self._path()))

    async def run(
        self,
        command: str | Sequence[str],
        *,
        timeout_s: float | None = 30,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: str | bytes | None = None,
        keep_alive: bool = True,
        check: bool = False,
        max_output_bytes: int = DEFAULT_OUTPUT_BYTES,
        keep: Keep = "tail",
        exec_id: str | None = None,
    ) -> RunResult:
        """Run a command to its end. A string goes through a shell, a sequence is run as it is.

        After `timeout_s` seconds (None: no limit) the command and all it started are ended and the result
        says `timed_out`. `cwd` is absolute or relative to /workspace; `env` adds to the sandbox's; `user` may
        be ``"root"`` where the profile allows it. With `keep_alive=False` its running is no activity, and an
        idle sandbox is frozen with it. The result has all that it printed, up to `max_output_bytes` (16 MiB,
        up to 1 GiB); of more it has the last bytes, or with `keep` the first (``"head"``) or half of each
        (``"both"``), and is not `ok`. Raises CommandFailed with `check=True` when it is not. When the call is
        cancelled the command is ended. `exec_id` is its id, where the caller chooses one (``exec-`` and 24
        hexadecimal digits): with it another thread ends the command by `execs.end`.
        """
        collected = Collected(max_output_bytes, keep)
        result = await self.execs.run(
            command, stdin, collected, exec_id, timeout_s=timeout_s, cwd=cwd, env=env, user=user,
            keep_alive=keep_alive,
        )  # fmt: skip
        return result.check() if check else result

    async def spawn(self, command: str | Sequence[str], **options: Unpack[SpawnOptions]) -> AsyncProc:
        """Start a command and return at once, with what reads its output, writes to it and waits for it.

        Takes what `run` takes but `check`, without a time limit unless given, and what `SpawnOptions` adds: a
        terminal (`tty`, `rows`, `cols`), `stdin_open`, and `max_run_after_disconnect_s`.
        """
        return await self.execs.spawn(command, **options)

    def terminal(
        self, rows: int | None = None, cols: int | None = None, exec_id: str | None = None
    ) -> AsyncAttachment:
        """A login shell on a terminal of its own, for a `with` block; leaving it leaves the shell running.

        Its size is 24 rows of 80 columns unless given. `exec_id` is one that was left: its last screen comes
        first, at the new size where both numbers are given, else at the size it has. An idle sandbox is
        frozen together with such a shell.
        """
        size = {"rows": rows, "cols": cols}
        progress = Progress(None, None, self._http.config.retry_s, repaint=True)
        return AsyncAttachment(self._http, Door(self.id, exec_id, repaint=True, size=size), progress)

    def tunnel(self, port: int) -> AsyncTunnel:
        """A TCP connection to what listens on a port of it, to be used with `with`; wakes it.

        Entering the block raises PortClosed when nothing listens there.
        """
        return AsyncTunnel(self._http, self.id, port)

    async def url(self, port: int | None = None) -> str:
        """Where a browser reaches a port of it; without one the port that its `url` setting names.

        A port with access `owner` needs the key, or a link (`ports.link`), all the same. Raises NotFound
        without a `url` setting, and for a `port` without a listener: only the server knows its public host
        name.
        """
        if port is None:
            found = (await self.refresh()).url
            href = found and found.href
            what = "no port that its URL leads to; name one with update(url=PORT)"
        else:
            href = next((found.url for found in await self.ports.list() if found.port == port), None)
            what = (
                f"nothing that listens on port {port}; a link (ports.link) leads there before something does"
            )
        if href is None:
            raise NotFound(f"{self.name or self.id} has {what}")
        return href

    async def wait_for(self, port: int, timeout_s: float = 60.0) -> Port:
        """The listener on a port, once there is one. Raises Timeout after `timeout_s` seconds without."""
        return await self.ports.wait_for(port, timeout_s)

    async def fetch(
        self,
        port: int,
        path: str = "/",
        *,
        method: Method = "GET",
        headers: Mapping[str, str] | None = None,
        content: str | bytes | None = None,
        json: Any = None,
        timeout_s: float = 60.0,
    ) -> httpx.Response:
        """Ask an app that listens on a port of it by HTTP, with this client's key; the app sees no key.

        Wakes it, and waits until something listens (`port_wait` of the server, 30 s). The answer is the
        app's, whatever its status, and redirects are not followed; it is in memory, so download large things
        otherwise. `timeout_s` bounds each silence. Raises PortClosed when nothing listens.
        """
        return await self.ports.fetch(
            port, path, method=method, headers=headers, content=content, json=json, timeout_s=timeout_s
        )

    async def usage(self, over: float | None = None) -> SandboxUsage:
        """The processor time, memory, processes and disk that it uses now. Never starts compute.

        With `over` the call takes so many seconds (up to 10), and `cpus_used` has the cores in use meanwhile.
        """
        params = {} if over is None else {"over": over}
        return await self._http.one(SandboxUsage, Call.get(self._path("usage"), params, wait_s=over or 0.0))

    async def metrics(
        self, *, since: datetime | None = None, until: datetime | None = None, step: int | None = None
    ) -> SandboxMetrics:
        """Its use of processors, memory, devices, disk and network over time. Never starts compute.

        The last hour unless `since` and `until` (aware) say otherwise, up to 31 days. The points are at least
        `step` seconds apart (10, 60 or 900), and further where a finer step is no longer kept: `step` of the
        answer says so. Raises CapabilityNotSupported where the server takes no samples.
        """
        params = given(**{"from": since and to_rfc3339(since), "to": until and to_rfc3339(until)}, step=step)
        return await self._http.one(SandboxMetrics, Call.get(self._path("metrics"), params))

    async def processes(self) -> list[Process]:
        """Its running processes. Never starts compute."""
        return await self._http.all(Process, Call.get(self._path("processes")))

    async def signal_process(self, pid: int, signal: str | int = "TERM") -> None:
        """Send a process a signal, by name or number. Raises NotFound when there is none of that `pid`."""
        path = self._path("processes", str(pid), "signal")
        await self._http.json(Call("POST", path, body={"signal": signal}))

    async def shell(
        self,
        command: str,
        timeout_s: int = 30,
        *,
        cwd: str | None = None,
        description: str | None = None,
        tags: str | None = None,
    ) -> ShellResult:
        """Run a shell command by the v1 call `shell/exec`, which keeps it in the sandbox's history.

        A command that ran out of time is no error: `success` is False and `exit_code` -1. `description` and
        `tags` (with commas between) are for the history.
        """
        body = given(command=command, timeout=timeout_s, cwd=cwd, description=description, tags=tags)
        path = self._path("shell", "exec")
        return await self._http.one(ShellResult, Call("POST", path, body=body, wait_s=timeout_s))

    async def start(self, wait: float | None = None) -> Sandbox:
        """Ask for compute, and wait up to `wait` seconds until it is there. `info` says how far it is."""
        params = {"wait": wait} if wait else {}
        path = self._path("start")
        return await self._ask(Call("POST", path, params=params, safe=True, wait_s=wait or 0.0))

    async def pause(self) -> Sandbox:
        """Freeze it in memory with all that runs in it; answers once it is frozen. Again is no error.

        Any call that needs compute wakes it, in milliseconds. Raises Conflict when it has no compute to
        freeze, or while calls are under way in it.
        """
        return await self._ask(Call("POST", self._path("pause"), safe=True))

    async def hibernate(self) -> Sandbox:
        """Write its memory to disk with all that runs in it; answers once that is done. Again is no error.

        Any call that needs compute brings it back; connections of its programs are closed by then. Raises
        Conflict when it has no compute, while calls are under way in it, or when something in it cannot be
        saved, and CapabilityNotSupported where its profile or the server cannot.
        """
        return await self._ask(Call("POST", self._path("hibernate"), safe=True))

    async def resume(self, wait: float | None = None) -> Sandbox:
        """Let it run again, and wait up to `wait` seconds (60) until it does. One that is cold is started."""
        params = {} if wait is None else {"wait": wait}
        wait_s = RESUME_S if wait is None else wait
        call = Call("POST", self._path("resume"), params=params, safe=True, wait_s=wait_s)
        return await self._ask(call)

    async def update(self, **options: Unpack[UpdateOptions]) -> Sandbox:
        """Change its `name`, `labels` (all), timeouts, `checkpoint_policy`, `url`, `ports` (all) or sizes.

        Options left out stay. None takes a name, a policy or a URL away; of a timeout or a `ttl` it means
        never. Both count from now, and a `ttl` may shorten its life. `cpus`, `memory_mb` and `pids` hold at
        once for all that runs in it. Raises Conflict when the name is taken, and for less memory than is in
        use.
        """
        return await self._ask(Call("PATCH", self._path(), body=update_body(options), safe=True))

    async def restore(self, checkpoint: str | Checkpoint, *, memory: bool | None = None) -> Sandbox:
        """Put the files back as they were; the present ones are gone unless a checkpoint has them.

        Sets and returns `info`. A checkpoint of another sandbox of yours will do as well, such as of a fork,
        but by its id. Commands that run end. Of a checkpoint with memory, programs then go on as they were;
        `memory=False` restores its files alone, and `memory=True` refuses a checkpoint without memory.

        Raises Conflict while another restore is under way, and when the memory cannot be used. One that fails
        leaves the present files.
        """
        body = None if memory is None else {"memory": memory}
        return await self._ask(Call("POST", self._of(checkpoint, "restore"), body=body, wait_s=COPY_S))

    async def fork(
        self,
        count: int = 1,
        checkpoint: str | Checkpoint | None = None,
        name: str | None = None,
        *,
        memory: bool = False,
        ttl: int | str | None = None,
    ) -> "AsyncBoxes":
        """New sandboxes with files of their own that begin as those of a checkpoint, or as they are now.

        With `memory` each goes on with what runs in this one, or ran at the checkpoint: kernels have their
        variables, and execs their ids. This one goes on too. Raises Conflict for a checkpoint without memory,
        and as `checkpoint` with memory does.

        With a `count` above 1 they are named ``NAME-1``, ``NAME-2`` and so on. They live on when this one is
        deleted, for `ttl` seconds, or text such as ``"10m"`` (0 is for ever, None as the profile says). Used
        with `with`, the list deletes them all at the end of the block.
        """
        source = checkpoint and ref(checkpoint)
        fields = given(count=count, checkpoint=source, name=name, memory=memory or None, ttl=ttl)
        made = await self._http.all(Sandbox, Call.once(self._path("fork"), fields, wait_s=COPY_S))
        return AsyncBoxes(AsyncBox(self._http, info) for info in made)

    async def stop(self) -> None:
        """Give the compute back; files stay, processes end. Again is no error."""
        await self._http.json(Call("POST", self._path("stop"), safe=True))

    async def delete(self) -> None:
        """Remove the sandbox and its own files for good. Again is no error."""
        await self._http.json(Call("DELETE", self._path(), safe=True))

    async def extend_ttl(self, seconds: int | str) -> Sandbox:
        """Put `expires_at` off by `seconds` (or text such as ``"10m"``), counted from now if it has passed.

        Raises SandboxTtlInfinite without one.
        """
        return await self._ask(Call.once(self._path("extend_ttl"), {"extend_by": seconds}))

    async def keepalive(self) -> None:
        """Count as activity: its idle timeout, or a frozen one's warm timeout, starts anew. Wakes nothing."""
        await self._http.json(Call("POST", self._path("keepalive"), safe=True))

    def events(self, since: str | None = None, *, follow: bool = True) -> AsyncGenerator[Event, None]:
        """The events of this sandbox, until it is deleted; see `AsyncClient.events`."""
        return events(self._http, self._path("events"), since, follow=follow, one_sandbox=True)

    async def _ask(self, call: Call) -> Sandbox:
        self.info = await self._http.one(Sandbox, call)
        return self.info


class AsyncBoxes(list[AsyncBox]):
    """Sandboxes that were made together. Used with `with`, all are deleted at the end of the block."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Delete each, also when another cannot be; the first such error is raised."""
        failed: list[BayError] = []
        for box in self:
            try:
                async with box:
                    pass
            except BayError as problem:
                failed.append(problem)
        if failed:
            raise failed[0]
