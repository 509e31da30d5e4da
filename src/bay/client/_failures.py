"""Failures of the connection become errors of Bay, and decide when a call is tried again."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import httpx

from bay.backoff import Backoff
from bay.client._calls import Call
from bay.errors import BayError, ConnectionFailed, InvalidArgument, SandboxNotReady, Timeout

QUICK_ATTEMPTS = 2
"""How often a server that cannot be reached is tried again."""

LASTING_ATTEMPTS = 3
"""How many attempts that lasted and broke have the time for others begin again; no call goes on for ever."""

STEADY_S = 5.0
"""A connection that lasted so long was good, even without output."""

MAX_PAUSE_S = 2.0
_BACKOFF = Backoff(0.1, MAX_PAUSE_S)

MIN_DELAY_S = 0.05
"""So that `Retry-After: 0` is not a busy loop."""

_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "record layer failure")
"""How OpenSSL, by version, calls an answer that does not begin as TLS does."""


@contextmanager
def http_errors(url: str) -> Generator[None, None, None]:
    """Exceptions of httpx become Bay's, here alone; `details.sent` False: nothing reached the server."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
        raise _unreachable(url, error) from error
    except httpx.TimeoutException as error:
        raise Timeout(
            f"{url} did not answer in time; the call may or may not have taken effect. "
            "Raise timeout_s if it needs longer"
        ) from error
    except httpx.InvalidURL as error:  # only apps are asked for paths that are not ours
        raise InvalidArgument(f"this path cannot be sent: {error}") from error
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise ConnectionFailed(
            f"the connection to {url} broke: {_words(error)}", details={"url": url, "sent": True}
        ) from error


def _unreachable(url: str, error: httpx.TransportError) -> ConnectionFailed:
    way_out = "start it with `bay serve`, or set BAY_URL to where it runs"
    words = _words(error)
    if any(sign in words for sign in _NOT_TLS):
        words = "it speaks plain http, or something that is no TLS"
        way_out = f"set BAY_URL to http{url.removeprefix('https')}"
    return ConnectionFailed(
        f"cannot reach Bay at {url}: {words}; {way_out}", details={"url": url, "sent": False}
    )


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


class Attempts:
    """Decides, for one call, how long to pause before the next attempt.

    A call that is not safe to send twice is repeated only when the server cannot have acted on it:
    nothing was sent, or the sandbox was not ready to take it. A server that never answered is given
    up quickly; one whose connection broke in the middle is given `retry_s` to come back. That time begins
    with the call, and again when a connection breaks that had lasted: a server may wait for compute, and die.
    """

    def __init__(self, call: Call, retry_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._call = call
        self._retry_s = retry_s
        self._clock = clock
        self._began = clock()
        self._deadline = self._began + retry_s
        self._renewals = LASTING_ATTEMPTS
        self._count = 0
        self._broke = False

    def pause(self, error: BayError) -> float:
        """The pause in seconds; raises `error` to give up."""
        now = self._clock()
        delay = self._delay(error)
        self._renew(error, now)
        if delay is None or not self._call.repeatable or now + delay >= self._deadline:
            raise error
        self._count += 1
        self._began = now + delay
        return delay

    def _renew(self, error: BayError, now: float) -> None:
        lasted = _was_sent(error) and now - self._began >= min(STEADY_S, self._retry_s)
        if lasted and self._renewals:
            self._renewals -= 1
            self._deadline = now + self._retry_s

    def _delay(self, error: BayError) -> float | None:
        if isinstance(error, ConnectionFailed):
            return self._connection_delay(sent=_was_sent(error))
        if error.status == 503 and (self._call.safe or isinstance(error, SandboxNotReady)):
            return _server_delay(error.details.get("retry_after_ms"))
        return None

    def _connection_delay(self, *, sent: bool) -> float | None:
        self._broke = self._broke or sent
        if (sent and not self._call.safe) or (self._count >= QUICK_ATTEMPTS and not self._broke):
            return None
        return backoff(self._count)


def _was_sent(error: BayError) -> bool:
    """Whether it is a connection's that took the call and broke."""
    return isinstance(error, ConnectionFailed) and bool(error.details.get("sent", True))


def backoff(failures: int) -> float:
    """The pause after so many failures in a row: none at first, then growing to `MAX_PAUSE_S`."""
    return _BACKOFF.pause(failures) if failures else 0.0


def _server_delay(retry_after_ms: object) -> float | None:
    return max(MIN_DELAY_S, retry_after_ms / 1000) if isinstance(retry_after_ms, int | float) else None
