"""A request to the API server of Kubernetes, sent again where that does no harm, and the words of errors.

A request has one of these ends:

    an answer           A JSON object, or the lines of a watch.
    KubeRefused         The API server refuses the request, and will again: a permission, a quota, a rule of
                        admission, an invalid object. `AlreadyExists` and `KubeConflict` are two kinds of it.
    Expired             The API server no longer has the history that the request needs.
    DriverUnavailable   The outcome is not known. Unknown is never gone.

No limit of requests per second is kept here. The API server says when it has too many (429), and is obeyed.
"""

import asyncio
import contextlib
import json
import random
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client import ApiClient

from bay import __version__
from bay.backoff import Backoff
from bay.drivers.kubernetes.login import KubeLogin
from bay.errors import BayError, DriverUnavailable

Json = dict[str, Any]

_LONGEST_MESSAGE = 500
_LONGEST_BODY = 64 << 20
_LONGEST_LINE = 32 << 20
"""Bytes of an answer, and of a line of a watch. etcd bounds an object to less than 2 MB."""
_BACKOFF = Backoff(0.2, 5.0)


class KubeRefused(DriverUnavailable):
    """The API server refuses a request for good. `answered` is the HTTP status, `reason` a word such as
    `Forbidden` or `Invalid`, `subject` the name of the object that it is about, `causes` the reasons of
    single fields. The message has the API server's own words.
    """

    def __init__(
        self, message: str, *, answered: int, reason: str, subject: str = "", causes: tuple[str, ...] = ()
    ) -> None:
        super().__init__(message)
        self.answered = answered
        self.reason = reason
        self.subject = subject
        self.causes = causes


class AlreadyExists(KubeRefused):
    """An object of that kind and name is there."""


class KubeConflict(KubeRefused):
    """The object is another one than the request expects: its uid, its version or a tested field differs."""


class Expired(Exception):
    """The API server has no history back to that version any more: list again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Persistence:
    """How requests are sent again: `tries` in all, after pauses of random length up to those of `backoff`."""

    tries: int = 5
    backoff: Backoff = _BACKOFF
    longest_wait_s: float = 30.0
    """The longest `Retry-After` that is waited for, at each attempt."""
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep

    def pause(self, attempt: int) -> float:
        """Seconds to wait after so many attempts."""
        return self.backoff.pause(attempt) * random.uniform(0.5, 1.0)  # noqa: S311 (it spreads load)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiCall:
    """A request. `act` is what it is for, as a verb with its object."""

    act: str
    method: str
    path: str
    query: Mapping[str, str | int]
    """Parameters; empty ones are left out."""
    body: Any = None
    content_type: str = "application/json"
    accept: str = "application/json"
    is_repeatable: bool = True
    """Whether a second attempt does no harm when the first one took effect."""

    @property
    def target(self) -> str:
        """The path with the query."""
        query = urlencode({name: value for name, value in self.query.items() if value != ""})
        return f"{self.path}?{query}" if query else self.path


@dataclass(frozen=True, slots=True)
class _Answered:
    status: int
    retry_after_s: float | None
    body: bytes
    stream: aiohttp.ClientResponse | None = None
    """A watch that the API server has opened. Its user closes it."""


class _Unanswered(Exception):
    """A request has no answer. `is_unsent`: it had no effect. `is_final`: another attempt has none either."""

    def __init__(self, message: str, *, is_unsent: bool = False, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_unsent = is_unsent
        self.is_final = is_final


class ApiServer:
    """An API server, by the client library's own connections."""

    def __init__(
        self,
        clients: tuple[ApiClient, ...],
        login: KubeLogin,
        timeout_s: float,
        persistence: Persistence,
    ) -> None:
        # Apart, so that no burst of requests delays the watches.
        self._requests, self._watches = clients
        self._login = login
        self._timeout_s = timeout_s
        self._persistence = persistence
        self.url: str = cast("Any", self._requests).configuration.host

    def __str__(self) -> str:
        return f"the Kubernetes API server {self.url}"

    async def aclose(self) -> None:
        """Close all connections."""
        for client in (self._watches, self._requests):
            await client.close()

    async def send(self, call: ApiCall) -> Json:
        """The object that the API server answers with. Raises KubeRefused, Expired and DriverUnavailable."""
        answered = await self._answered(call)
        if not HTTPStatus.OK <= answered.status < HTTPStatus.MULTIPLE_CHOICES:
            raise self.refusal(answered.status, _status(answered.body), call.act)
        found = parsed(answered.body)
        if found is None:
            raise DriverUnavailable(
                f"{self} answered with what is no JSON object; see to it that this is its address"
            )
        return found

    async def lines(self, call: ApiCall, silence_s: float) -> AsyncGenerator[bytes]:
        """The lines of a watch, until the API server ends it.

        Raises DriverUnavailable when it breaks, in the middle of a line too, or when no byte comes for
        `silence_s` seconds; and KubeRefused and Expired.
        """
        answered = await self._answered(call, silence_s)
        if answered.stream is None:
            raise self.refusal(answered.status, _status(answered.body), call.act)
        try:
            async for line in _lines(answered.stream.content):
                yield line
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise DriverUnavailable(str(self._unanswered(error, silence_s))) from None
        finally:
            connection = answered.stream.connection
            if connection is not None and connection.transport is not None:
                connection.transport.abort()  # an orderly end would outlive this by a round trip
            answered.stream.close()

    def refusal(self, code: int, status: Json, act: str) -> BayError | Expired:
        """The error that an answer stands for, by its HTTP status and its object of kind Status."""
        reason, words = str(status.get("reason") or ""), _words(status)
        if code == HTTPStatus.GONE:
            return Expired(words)
        if code == HTTPStatus.UNAUTHORIZED:
            return DriverUnavailable(
                f"{self} does not accept Bay's credentials (HTTP 401); renew those of the kubeconfig, or of the "
                "pod's service account"
            )
        if code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return DriverUnavailable(f"{self} failed to {act} (HTTP {code}: {words}); try again later")
        kind = KubeRefused
        if code == HTTPStatus.CONFLICT:
            kind = AlreadyExists if reason == "AlreadyExists" else KubeConflict
        details = as_dict(status.get("details"))
        return kind(
            f"{self} refuses to {act} (HTTP {code}): {words}",
            answered=code,
            reason=reason,
            subject=str(details.get("name") or ""),
            causes=tuple(str(as_dict(one).get("reason")) for one in as_list(details.get("causes"))),
        )

    async def _answered(self, call: ApiCall, silence_s: float | None = None) -> _Answered:
        """The answer, after as many attempts as the call allows. Raises DriverUnavailable."""
        attempt, is_renewed = 1, False
        while True:
            is_last = attempt >= self._persistence.tries
            authorization = await self._login.value()
            try:
                answered = await self._once(call, authorization, silence_s)
            except _Unanswered as error:
                if error.is_final or is_last or not (error.is_unsent or call.is_repeatable):
                    raise DriverUnavailable(str(error)) from None
                pause = self._persistence.pause(attempt)
            else:
                if answered.status == HTTPStatus.UNAUTHORIZED and not is_renewed:
                    is_renewed = True
                    if await self._login.renew(authorization):
                        continue
                if not _is_busy(call, answered):
                    return answered
                # The random part is added, so that not all who were sent away come back together.
                pause = (answered.retry_after_s or 0.0) + self._persistence.pause(attempt)
                if is_last or pause > self._persistence.longest_wait_s:
                    raise DriverUnavailable(
                        f"{self} is too busy to {call.act} (HTTP {answered.status}: "
                        f"{_words(_status(answered.body))}); try again later"
                    )
            await self._persistence.sleep(pause)
            attempt += 1

    async def _once(self, call: ApiCall, authorization: str | None, silence_s: float | None) -> _Answered:
        headers = {
            "Accept": call.accept,
            "Content-Type": call.content_type,
            "User-Agent": f"bay/{__version__}",
        }
        if authorization:
            headers["Authorization"] = authorization
        if silence_s is None:
            client, timeout = self._requests, aiohttp.ClientTimeout(total=self._timeout_s)
        else:
            client = self._watches
            timeout = aiohttp.ClientTimeout(sock_connect=self._timeout_s, sock_read=silence_s)
        call_api = cast("Callable[..., Awaitable[Any]]", client.call_api)  # pyright: ignore[reportUnknownMemberType]
        try:
            reply = await call_api(
                call.method,
                self.url + call.target,
                header_params=headers,
                body=call.body,
                _request_timeout=timeout,
            )
            response = cast("aiohttp.ClientResponse", reply.response)
            if silence_s is not None and response.status == HTTPStatus.OK:
                return _Answered(response.status, None, b"", response)
            with contextlib.closing(response):  # which keeps a connection whose answer was read to its end
                body = await _body(response)
            return _Answered(response.status, _seconds(response.headers.get("Retry-After")), body)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._unanswered(error, silence_s or self._timeout_s) from None

    def _unanswered(self, error: Exception, waited_s: float) -> _Unanswered:
        """The failure of a connection, in words that an operator can act on."""
        certificate = getattr(error, "certificate_error", error)
        if isinstance(certificate, ssl.CertificateError):
            why = getattr(certificate, "verify_message", "") or str(certificate)
            return _Unanswered(
                f"the certificate of {self} is not trusted ({bounded(why)}); name its authority as "
                "certificate-authority in the kubeconfig",
                is_unsent=True,
                is_final=True,
            )
        if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
            return _Unanswered(f"{self} has no valid URL; mend `server` in the kubeconfig", is_final=True)
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            why = getattr(error, "os_error", error)
            return _Unanswered(
                f"{self} cannot be reached ({bounded(str(why))}); see to it that it runs, and that the "
                "kubeconfig has its address",
                is_unsent=True,
            )
        if isinstance(error, TimeoutError):
            return _Unanswered(f"{self} said nothing for {waited_s:g} s; try again later")
        return _Unanswered(f"{self} broke the connection ({type(error).__name__}); try again later")


async def _body(response: aiohttp.ClientResponse) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > _LONGEST_BODY:
            raise aiohttp.ClientPayloadError
    return b"".join(pieces)


async def _lines(content: aiohttp.StreamReader) -> AsyncGenerator[bytes]:
    """Each line that is not empty. A last one without an end is an error of the connection."""
    pieces: list[bytes] = []
    size = 0
    async for chunk in content.iter_any():
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            if line := b"".join((*pieces, end)).strip():
                yield line
            pieces, size = [], 0
        pieces.append(rest)
        size += len(rest)
        if size > _LONGEST_LINE:
            raise aiohttp.ClientPayloadError
    if size:
        raise aiohttp.ClientPayloadError


def _is_busy(call: ApiCall, answered: _Answered) -> bool:
    """Whether another attempt may end better, and does no harm."""
    if answered.status == HTTPStatus.CONFLICT and call.method == "POST":
        # Two creates counted against one quota at the same time: this one was not let in.
        return _status(answered.body).get("reason") == "Conflict"
    failed = answered.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return answered.status == HTTPStatus.TOO_MANY_REQUESTS or (failed and call.is_repeatable)


def _seconds(header: str | None) -> float | None:
    return float(header) if header and header.isascii() and header.isdigit() else None


def _status(body: bytes) -> Json:
    """An answer's object of kind Status; of an answer that has none, its text as the message."""
    found = parsed(body)
    return {"message": body.decode("utf-8", "replace")} if found is None else found


def _words(status: Json) -> str:
    return bounded(str(status.get("message") or "without a reason"))


def bounded(text: str) -> str:
    """A text of the API server on one line, of at most 500 characters."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}…"


def parsed(data: bytes) -> Json | None:
    """A JSON object, or None for anything else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return cast("Json", found) if isinstance(found, dict) else None


def as_dict(value: object) -> Json:
    """An object of JSON; an empty one for anything else. No field that one expects has to be there."""
    return cast("Json", value) if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """An array of JSON; an empty one for anything else."""
    return cast("list[Any]", value) if isinstance(value, list) else []
