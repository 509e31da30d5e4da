"""The server process, `bay serve`: it binds, opens, serves, and leaves the sandboxes running at the end."""

import asyncio
import fcntl
import json
import os
import resource
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import structlog
import uvicorn
import uvloop

from bay.errors import BayError, Conflict, DriverUnavailable
from bay.server import logs, settings
from bay.server.app import build_app
from bay.server.control_plane import ControlPlane
from bay.server.data_dir import KEY_FILE
from bay.server.data_dir import check as check_data_dir
from bay.server.database import sqlite_file
from bay.server.settings import Settings
from bay.server.web.connection_limits import ConnectionBounds, Connections
from bay.server.web.uvicorn_http import http_among
from bay.server.web.uvicorn_websocket import PING_S, BoundedWebSocket
from ship_protocol import MESSAGE_BYTES

log = structlog.get_logger("bay.server")

_SHUTDOWN_S = 5
_LOOKS_S = 0.005
_GOODBYE_S = 1.0
_BACKLOG = 2048
_ASK_AFTER_S = 60
_ASK_EVERY_S = 15
_ASKS = 4


def serve(
    host: str | None, port: int | None, data_dir: Path | None, config: Path | None, *, as_json: bool = False
) -> int:
    """Run the server until a signal stops it. Returns the exit code; reports an error in one line."""
    try:
        loaded = settings.read(config, host=host, port=port, data_dir=data_dir)
        logs.configure(loaded.log_level, loaded.log_format)
        run(loaded, _announce_json if as_json else _announce)
    except (OSError, BayError) as error:
        if as_json:
            raise
        return _complain(error)
    return 0


def run(
    loaded: Settings, on_ready: Callable[[str, ControlPlane], None], stop: asyncio.Event | None = None
) -> None:
    """Serve until a signal, or `stop`. `on_ready` gets the URL once requests are answered.
    Raises BayError when port, directory or host do not serve; nothing is left half made then.
    """
    if loaded.driver == "oci" and os.geteuid() != 0:
        raise DriverUnavailable("Bay needs root to create containers; start it as root or with sudo")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        listener = stack.enter_context(_listen(loaded.host, loaded.port))
        lock = lock_data_dir(loaded.data_dir, shared=loaded.replicas)
        stack.callback(os.close, lock)
        stack.callback(os.ftruncate, lock, 0)
        check_data_dir(loaded.data_dir, sqlite_file(loaded))

        def ready(url: str, bay: ControlPlane) -> None:
            if not loaded.replicas:  # one that ends must not leave its address to the others' lock
                os.write(lock, url.encode())  # where `bay` on this machine finds it
            on_ready(url, bay)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(loaded, listener, ready, stop))


async def _serve(
    loaded: Settings,
    listener: socket.socket,
    on_ready: Callable[[str, ControlPlane], None],
    stop: asyncio.Event | None,
) -> None:
    app = build_app(loaded)
    bay: ControlPlane = app.state.bay
    connections = Connections(_bounds(loaded))
    server = _Server(
        uvicorn.Config(
            app,
            lifespan="off",  # entered here instead, so that a failure to start is an error and not a log line
            http=http_among(connections),
            ws=BoundedWebSocket,
            ws_max_size=MESSAGE_BYTES,
            ws_ping_interval=PING_S,
            ws_ping_timeout=PING_S,
            ws_per_message_deflate=False,
            log_config=None,
            access_log=False,
            # Only a proxy that ends TLS for the public URL names the client.
            proxy_headers=loaded.public_url is not None,
            forwarded_allow_ips=[str(network) for network in loaded.trusted_proxies],
            server_header=False,
            timeout_keep_alive=loaded.keep_alive_timeout,
            timeout_graceful_shutdown=_SHUTDOWN_S,
        )
    )
    address = listener.getsockname()
    bay.hosts.port = address[1]
    async with bay.running(), asyncio.TaskGroup() as group:
        server.on_started = lambda: on_ready(_url(address), bay)
        told = stop or _told_by_signals(server)  # before the URL is: who reads it may send one at once
        beside = [group.create_task(_end_when_told(server, told, bay)), group.create_task(connections.run())]
        await server.serve(sockets=[listener])
        for task in beside:
            task.cancel()


def _bounds(loaded: Settings) -> ConnectionBounds:
    """A third of the descriptors is for clients, a third for their files, the rest for Bay itself."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = sys.maxsize if descriptors == resource.RLIM_INFINITY else max(descriptors // 3, 1)
    return ConnectionBounds(
        most=min(loaded.max_connections, room),
        # Behind a proxy all come from one address.
        most_of_address=loaded.max_connections_per_address if loaded.public_url is None else None,
        head_s=loaded.head_timeout,
        body_s=loaded.body_timeout,
        idle_s=loaded.keep_alive_timeout,
    )


def _told_by_signals(server: "_Server") -> asyncio.Event:
    """Set by the first SIGINT or SIGTERM, to end the server gracefully; another one ends it at once."""
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, _on_signal, server, told)
    return told


async def _end_when_told(server: "_Server", told: asyncio.Event, bay: ControlPlane) -> None:
    await told.wait()
    bay.feed.close()  # the end would wait for followers of events otherwise
    bay.connections.close()
    server.end()


def _on_signal(server: "_Server", told: asyncio.Event) -> None:
    server.force_exit = told.is_set()
    told.set()


class _Server(uvicorn.Server):
    """uvicorn, telling when it serves; it ends at once, where its own would look every tenth of a second."""

    on_started: Callable[[], None]

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._told = asyncio.Event()

    def end(self) -> None:
        """Take no more connections, and let those that are answered just now come to their end."""
        self.should_exit = True
        self._told.set()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are ours: uvicorn's own handling would end the process before Bay is closed."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_started()

    async def main_loop(self) -> None:
        ticking = asyncio.create_task(super().main_loop())
        try:
            await self._told.wait()
        finally:
            ticking.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in (*self.servers, *(sockets or ())):
            listener.close()
        await self._take_leave()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                await asyncio.sleep(_LOOKS_S)  # uvloop lets go of the listeners meanwhile
                while self._is_busy() and not self.force_exit:  # noqa: ASYNC110  uvicorn tells nobody
                    await asyncio.sleep(_LOOKS_S)
                for server in self.servers:
                    await server.wait_closed()
        except TimeoutError:
            log.error("serve.cut_off", calls=len(self.server_state.tasks))
            for task in self.server_state.tasks:
                task.cancel("Bay ends")

    async def _take_leave(self) -> None:
        """Let WebSockets be closed by those who can say why; uvicorn closes what is left without a word."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                while any(isinstance(one, BoundedWebSocket) for one in self.server_state.connections):  # noqa: ASYNC110  as below
                    await asyncio.sleep(_LOOKS_S)

    def _is_busy(self) -> bool:
        return bool(self.server_state.connections or self.server_state.tasks)


def lock_data_dir(data_dir: Path, *, shared: bool = False) -> int:
    """Make the data directory and hold it for this process alone, or with `shared` for all replicas; the
    descriptor is the hold.
    Raises Conflict when another Bay has it and DriverUnavailable when it cannot be written.
    """
    try:
        data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        descriptor = os.open(data_dir / "bay.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DriverUnavailable(
            f"cannot write the data directory {data_dir}: {error.strerror}; choose another with --data-dir"
        ) from error
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise Conflict(
            f"another Bay uses the data directory {data_dir}; stop it or choose another"
        ) from error
    os.ftruncate(descriptor, 0)  # the address of one that was killed
    return descriptor


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    _notice_the_vanished(listener)
    try:
        listener.bind((host, port))
        # Now and not by uvicorn: only this tells for certain that the port is taken.
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise Conflict(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port"
        ) from error
    return listener


def _notice_the_vanished(listener: socket.socket) -> None:
    """Have the kernel look for vanished clients: one that follows a silent exec would be there for ever."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _ASK_AFTER_S)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _ASK_EVERY_S)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _ASKS)


def _url(address: tuple[str, int]) -> str:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{host}:{address[1]}"


def _announce(url: str, bay: ControlPlane) -> None:
    """The next steps, in lines that a shell takes; a new key is shown this once."""
    kept = bay.settings.data_dir / KEY_FILE
    lines = [f"Bay serves at {url}"]
    if bay.new_key is not None:
        shown = f" (shown once, kept in {kept}): {bay.new_key}"
        lines.append(f"API key: in {kept}" if _is_journal() else f"API key{shown}")
    lines.append(f"  export BAY_URL={url}")
    if bay.settings.api_key is None and kept.exists():
        lines.append(f'  export BAY_API_KEY="$(cat {shlex.quote(str(kept))})"')
    usual = bay.settings.data_dir == Settings.model_fields["data_dir"].default
    here = "no export" if usual else f"only BAY_DATA_DIR={shlex.quote(str(bay.settings.data_dir))}"
    lines.append(
        f"The API is at {url}/docs. On this machine root needs {here}: try `{_program()} run echo hello`."
    )
    print("\n".join(lines), flush=True)  # noqa: T201


def _is_journal() -> bool:
    """Whether stdout is the journal of systemd, which keeps what it gets and has more readers than the key's
    file. See systemd.exec(5), $JOURNAL_STREAM.
    """
    if (stream := os.environ.get("JOURNAL_STREAM")) is None:
        return False
    own = os.fstat(sys.stdout.fileno())
    return stream == f"{own.st_dev}:{own.st_ino}"


def _program() -> str:
    """The command as a shell calls it: by its name where PATH leads to it, else by its path."""
    called, found = sys.argv[0], shutil.which("bay")
    if os.path.basename(called) != "bay" or (found is not None and os.path.samefile(found, called)):
        return "bay"
    return shlex.quote(called)


def _announce_json(url: str, bay: ControlPlane) -> None:
    """The same for programs: one object on one line."""
    kept = bay.settings.data_dir / KEY_FILE
    said = {"url": url, "docs": f"{url}/docs", "key_file": str(kept) if kept.exists() else None}
    new = {} if bay.new_key is None else {"api_key": bay.new_key}
    print(json.dumps(said | new), flush=True)  # noqa: T201


def _complain(error: OSError | BayError) -> int:
    message = (
        error.message
        if isinstance(error, BayError)
        else f"{error.filename or 'a file of Bay'}: {error.strerror}"
    )
    print(f"bay serve: {message}", file=sys.stderr)  # noqa: T201
    return 1
