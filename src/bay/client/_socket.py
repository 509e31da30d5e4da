"""The WebSocket client of Bay, for threads and event loops: opened as the HTTP client is, with Bay's errors.

`scripts/generate_sync.py` turns `AsyncSocket` into `Socket`. The websockets library and asyncio are loaded
when the first one is opened: few programs attach to anything.
"""

import importlib
import selectors
import socket
import ssl
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, cast
from urllib.parse import urlsplit

import anyio
import httpx

from bay.client._answers import check, decode
from bay.client._calls import Params, query
from bay.client._config import CONNECT_S, Config, http_options
from bay.client._frames import MAX_FRAME_BYTES, close_error
from bay.client._seam import async_cleanup
from bay.errors import BayError, ConnectionFailed, Timeout
from ship_protocol import CloseCode

if TYPE_CHECKING:
    from websockets.exceptions import ConnectionClosed
    from websockets.http11 import Response

    from bay.client._connections import AsyncConnection, Connection

CLOSE_S = 2.0
"""How long saying goodbye may take."""

LOOK_S = 1.0
"""How often who waits to send looks whether the connection still stands."""

SILENCE_S = 60.0
"""How long a line may be without a sign of life before it is given up; Bay pings every 20 s."""

_LOCAL_REFUSALS = (
    CloseCode.PROTOCOL_ERROR,
    CloseCode.UNSUPPORTED_DATA,
    CloseCode.INVALID_DATA,
    CloseCode.TOO_LARGE,
)


Connected = TypeVar("Connected", bound="AsyncConnection | Connection")


class _Joined(Generic[Connected]):
    """A connection of the websockets library, and the manager that ends it."""

    def __init__(self, manager: Any, connection: Connected, url: str) -> None:
        self._manager: Any = manager
        self._connection = connection
        self._url = url

    @property
    def broken(self) -> bool:
        """Whether sending is known to be impossible."""
        return self._connection.state.name != "OPEN"


class AsyncSocket(_Joined["AsyncConnection"]):
    """One connection, to send and receive frames: text as str, binary as bytes."""

    @classmethod
    async def open(
        cls, config: Config, path: str, params: Params, patience_s: float = CONNECT_S
    ) -> "AsyncSocket":
        """Connect within `patience_s`. Raises what a refusal means, ConnectionFailed without a server."""
        _need_asyncio()
        with _opening(config):
            manager = _load("websockets.asyncio.client").connect(
                _address(config, path, params),
                create_connection=_load("bay.client._connections").AsyncConnection,
                **_options(config, patience_s),
            )
            connection = await manager.__aenter__()
        return cls(manager, connection, config.url)

    async def receive(self, timeout_s: float | None = None) -> str | bytes:
        """The next frame. Raises why the server hung up, Timeout after `timeout_s` or a long silence."""
        silence = _Silence()
        with _using(self._url), anyio.fail_after(timeout_s):
            while True:
                with anyio.move_on_after(silence.left(self._connection)):
                    return await self._connection.recv()

    async def send(self, frame: str | bytes) -> None:
        """Send a frame; waits while the other side takes nothing."""
        with _using(self._url):
            await self._connection.send(frame)

    async def aclose(self) -> None:
        """Hang up. Again is no error."""
        manager, self._manager = self._manager, None
        if manager is not None:
            with async_cleanup():
                await manager.__aexit__(None, None, None)


class Socket(_Joined["Connection"]):
    """One connection for frames, str or bytes. One thread may send while another receives."""

    @classmethod
    def open(cls, config: Config, path: str, params: Params, patience_s: float = CONNECT_S) -> "Socket":
        """Connect within `patience_s`. Raises what a refusal means, ConnectionFailed without a server."""
        with _opening(config):
            manager = _load("websockets.sync.client").connect(
                _address(config, path, params),
                create_connection=_load("bay.client._connections").Connection,
                **_options(config, patience_s),
            )
            connection = manager.__enter__()
        return cls(manager, connection, config.url)

    def receive(self, timeout_s: float | None = None) -> str | bytes:
        """The next frame. Raises why the server hung up, Timeout after `timeout_s` or a long silence."""
        silence = _Silence()
        with _using(self._url):
            if timeout_s is not None:
                return self._connection.recv(timeout_s)
            while True:
                left = silence.left(self._connection)
                with suppress(TimeoutError):
                    return self._connection.recv(left)

    def send(self, frame: str | bytes) -> None:
        """Send a frame; waits while the other side takes nothing."""
        with _using(self._url):
            self._wait_for_room()
            self._connection.send(frame)

    def _wait_for_room(self) -> None:
        # The library's `send` waits with the lock that receiving and hanging up need, so it is called where
        # it need not.
        while not (self.broken or _has_room(self._connection.socket)):
            pass

    def close(self) -> None:
        """Hang up. Again is no error."""
        manager, self._manager = self._manager, None
        if manager is not None:
            manager.__exit__(None, None, None)


def _has_room(connection: socket.socket) -> bool:
    """Waits up to `LOOK_S` for the kernel to take more; True for a socket that is closed."""
    with suppress(OSError, ValueError), selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_WRITE)
        return bool(selector.select(LOOK_S))
    return True


def _need_asyncio() -> None:
    try:
        _load("asyncio").get_running_loop()
    except RuntimeError as error:
        raise BayError(
            "attaching needs asyncio; under trio, read `output()` and write with `write()`"
        ) from error


def _load(module: str) -> Any:
    return importlib.import_module(module)


def _address(config: Config, path: str, params: Params) -> str:
    return f"ws{config.url.removeprefix('http')}{path}{query(params)}"


def _options(config: Config, patience_s: float) -> dict[str, Any]:
    """As the HTTP client is made. Frames are not compressed: output is cheap to send as it is."""
    http = http_options(config)
    headers = {name: value for name, value in http["headers"].items() if name == "Authorization"}
    secure = urlsplit(config.url).scheme == "https"
    return {
        "additional_headers": headers,
        "user_agent_header": http["headers"]["User-Agent"],
        "proxy": True if http["trust_env"] else None,
        "compression": None,
        "open_timeout": min(config.timeout_s, patience_s),
        # Ours would go unread, and so unanswered, while a command takes no input. Bay's come all the same.
        "ping_interval": None,
        "close_timeout": CLOSE_S,
        "max_size": MAX_FRAME_BYTES,
        **({"ssl": _certificates()} if secure else {}),
    }


def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()


# Failures


class _Silence:
    """The silence so far. Frames from before this was made, which waited unread, do not count as silence."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def left(self, connection: "AsyncConnection | Connection") -> float:
        """How much longer it may last, in seconds; raises TimeoutError when it has lasted too long."""
        left = max(self._began, connection.heard_at) + SILENCE_S - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


@contextmanager
def _opening(config: Config) -> Generator[None, None, None]:
    """The one place where what websockets raises before there is a connection becomes Bay's."""
    exceptions = _load("websockets.exceptions")
    url = config.url
    try:
        yield
    except _load("bay.client._connections").Refused as error:
        _refused(error.response, config)
    except (exceptions.InvalidMessage, exceptions.ConnectionClosed) as error:
        raise ConnectionFailed(
            f"the connection to {url} broke during its handshake: {error}", details={"url": url, "sent": True}
        ) from error
    except TimeoutError as error:
        raise Timeout(f"{url} did not answer in time; raise timeout_s if it needs longer") from error
    except OSError as error:
        raise ConnectionFailed(
            f"cannot reach Bay at {url}: {error}; start it with `bay serve`, or set BAY_URL to where it runs",
            details={"url": url, "sent": False},
        ) from error
    except (exceptions.WebSocketException, ImportError, ValueError) as error:
        raise BayError(f"{url} did not answer with Bay's WebSocket: {error}") from error


def _refused(response: "Response", config: Config) -> NoReturn:
    """An answer in place of an upgrade says why, as any other answer does."""
    kept = {name: value for name, value in response.headers.raw_items() if name.lower() in _HEADERS}
    url = config.url
    asked = httpx.Request("GET", url, headers=http_options(config)["headers"])
    answer = httpx.Response(
        response.status_code, headers=kept, content=bytes(response.body or b""), request=asked
    )
    check(answer, url)
    decode(answer, url)
    raise BayError(f"{url} answered HTTP {response.status_code} instead of opening a WebSocket")


_HEADERS = frozenset({"content-type", "location", "retry-after"})


@contextmanager
def _using(url: str) -> Generator[None, None, None]:
    """The one place where the end of a connection becomes Bay's."""
    closed = cast("type[ConnectionClosed]", _load("websockets.exceptions").ConnectionClosed)
    try:
        yield
    except closed as error:
        raise _closed(error, url) from error
    except TimeoutError as error:
        raise Timeout(f"{url} stopped answering; try again") from error


def _closed(error: "ConnectionClosed", url: str) -> BayError:
    if error.rcvd is not None:
        return close_error(error.rcvd.code, error.rcvd.reason, url)
    # No close frame from the server: the line broke, or a frame was such that we hung up.
    if error.sent is not None and error.sent.code in _LOCAL_REFUSALS:
        return BayError(f"{url} broke the WebSocket protocol: {error.sent.reason or error}")
    return close_error(CloseCode.ABNORMAL, "", url)
