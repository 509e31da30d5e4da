"""What goes over the wire, decided without any I/O: calls, answers, failures, and when to try again."""

import json
import time
from base64 import b64encode
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, NoReturn, TypedDict, TypeVar, cast
from urllib.parse import quote, unquote, urlencode

import httpx

from bay import hints
from bay.errors import (
    BayError,
    ConnectionFailed,
    InvalidArgument,
    SandboxNotReady,
    Timeout,
    Unauthorized,
    error_from_wire,
)
from bay.ids import is_id, is_name
from bay.models import (
    Checkpoint,
    CheckpointPolicy,
    NetworkMode,
    NetworkPolicy,
    PortSettings,
    ServiceSpec,
    from_wire,
    to_wire,
)

Json = dict[str, Any]
Params = Mapping[str, str | int | float | bool]
Model = TypeVar("Model")

QUICK_ATTEMPTS = 2
"""How often a server that cannot be reached is tried again."""

MAX_PAUSE_S = 2.0
MIN_DELAY_S = 0.05
"""So that `Retry-After: 0` is not a busy loop."""

MAX_LINE_BYTES = 16 << 20

COPY_S = 600.0
"""How much longer than other calls one may take that copies files where a copy is not instant."""

_SLICE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request. `safe` says that sending it twice does no harm; `wait_s` that the server may take so long.

    `repeatable` is False when the body can be read only once.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
    path: str
    params: Params = field(default_factory=dict[str, str | int | float | bool])
    body: Json | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    safe: bool = False
    repeatable: bool = True
    wait_s: float = 0.0

    @property
    def address(self) -> str:
        """The path with the query. A path of a sandbox goes as the very bytes it has, which need not be UTF-8."""
        return f"{self.path}{query(self.params)}"

    @property
    def json_content(self) -> bytes | None:
        """The body as JSON text, None where there is none."""
        return None if self.body is None else json.dumps(self.body).encode()

    @property
    def all_headers(self) -> dict[str, str]:
        """The headers, with the content type of a JSON body."""
        return {**({} if self.body is None else {"Content-Type": "application/json"}), **self.headers}


def query(params: Params) -> str:
    """The query of a URL with its question mark, empty without parameters."""
    texts = {name: str(value).lower() if isinstance(value, bool) else value for name, value in params.items()}
    return f"?{urlencode(texts, quote_via=quote, errors='surrogateescape')}" if texts else ""


class CreateOptions(TypedDict, total=False):
    """What `sandboxes.create` and `client.sandbox` take; what is left out, or None, is the profile's.

    `ttl`, `idle_timeout` and `warm_timeout` are whole seconds, or text such as ``"10m"``; a `ttl` of 0 means never, a `warm_timeout`
    of 0 that it is not kept frozen. `from_checkpoint` gives it the files of a checkpoint (by id), of whichever of the
    owner's sandboxes; `checkpoint_policy` has checkpoints made by themselves. `network_policy` says what its network may
    reach; `network` (``"none"``, ``"open"``) is short for a policy without rules; `url` which port (a number, or `PortSettings` to make it public) its URL leads to, `ports` who may reach others;
    `services` what is started with it. `wait` is how many seconds to wait until the
    sandbox is ready. With `exist_ok` the one that has the `name` already is given as it is, whatever else is asked for.
    `idempotency_key` makes a repeated create give the same sandbox; one is made up for each call unless you name it.
    """

    name: str | None
    profile: str | None
    image: str | None
    isolation: str | None
    env: Mapping[str, str] | None
    labels: Mapping[str, str] | None
    ttl: int | str | None
    idle_timeout: int | str | None
    warm_timeout: int | str | None
    cargo_id: str | None
    from_checkpoint: str | Checkpoint | None
    checkpoint_policy: CheckpointPolicy | None
    network: NetworkMode | None
    network_policy: NetworkPolicy | None
    url: PortSettings | int | None
    ports: Sequence[PortSettings] | None
    services: Sequence[ServiceSpec] | None
    wait: float | None
    exist_ok: bool | None
    idempotency_key: str | None


class UpdateOptions(TypedDict, total=False):
    """What `box.update` takes; what is left out stays as it is, and None is a value like any other."""

    name: str | None
    labels: Mapping[str, str]
    idle_timeout: int | str | None
    warm_timeout: int | str | None
    checkpoint_policy: CheckpointPolicy | None
    url: PortSettings | int | None
    ports: Sequence[PortSettings]


def known(call: str, options: Mapping[str, object], shape: type[object]) -> None:
    """Raises TypeError for an option that the TypedDict `shape` lacks, as Python does for other keyword arguments."""
    names = shape.__annotations__
    if unknown_name := next((name for name in options if name not in names), None):
        raise TypeError(f"{call}(): {hints.unknown('option', unknown_name, names)}")


def given(**fields: object) -> Json:
    """The fields that were given, without the ones that are None."""
    return {name: value for name, value in fields.items() if value is not None}


def named(options: CreateOptions) -> str:
    """The name in `options`. Raises InvalidArgument without one."""
    name = options.get("name")
    if name is None:
        raise InvalidArgument("exist_ok needs a name, by which an existing sandbox is found")
    return name


def refuse_exist_ok(options: CreateOptions) -> None:
    """Raises InvalidArgument where the end of a block deletes the sandbox."""
    if options.get("exist_ok"):
        raise InvalidArgument(
            "exist_ok is not for sandbox(), which deletes the sandbox at the end; use "
            "sandboxes.get_or_create() to keep it"
        )


def create_call(options: CreateOptions, key: str) -> Call:
    """The create, safe to repeat because of its key."""
    body = given(
        **{k: _on_wire(k, v) for k, v in options.items() if k not in ("wait", "exist_ok", "idempotency_key")}
    )
    wait = options.get("wait") or 0.0
    return Call(
        method="POST",
        path="/v1/sandboxes",
        params={"wait": wait} if wait else {},
        body=body,
        headers={"Idempotency-Key": key},
        safe=True,
        wait_s=max(wait, COPY_S if options.get("from_checkpoint") else 0.0),
    )


def update_body(options: UpdateOptions) -> Json:
    """The fields to change, None included."""
    known("update", options, UpdateOptions)
    return {name: _on_wire(name, value) for name, value in options.items()}


def _on_wire(name: str, value: object) -> object:
    if isinstance(value, Checkpoint):
        return value.id
    return bare(PortSettings(port=value) if name == "url" and isinstance(value, int) else value)


def bare(value: object) -> Any:
    """`value` (a model, or data made of models) as JSON-ready data. Fields of models that are None are left out."""
    if is_dataclass(value):
        return given(**{f.name: bare(getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, list | tuple):
        return [bare(item) for item in cast("Sequence[object]", value)]
    return to_wire(value)


def service_body(spec: ServiceSpec) -> Json:
    """What a service is, without its name. How a `Service` is at present is no part of that."""
    return given(**{f.name: bare(getattr(spec, f.name)) for f in fields(ServiceSpec) if f.name != "name"})


def list_params(filters: Mapping[str, object], cursor: str | None) -> Params:
    """The query of one page. A mapping becomes ``key:value``, as the `label` filter wants it."""
    return {k: str(v) for k, v in given(**filters, cursor=cursor).items()}


def sandbox_path(id_or_name: str, *rest: str) -> str:
    """The path of a sandbox. What can be neither id nor name is refused here, before it can mean another path."""
    if not (is_id(id_or_name) or is_name(id_or_name)):
        raise InvalidArgument(
            f"{id_or_name!r} is neither the id nor the name of a sandbox; a name has a-z, 0-9 and '-'"
        )
    return "/".join(("/v1/sandboxes", id_or_name, *map(_segment, rest)))


def _segment(text: str) -> str:
    if text in ("", ".", ".."):
        raise InvalidArgument(f"{text!r} is not an id")
    return quote(text, safe="")


def refuse_authorization(headers: Mapping[str, str]) -> None:
    """Raises InvalidArgument for a header that would take the place of the client's key."""
    if any(name.lower() == "authorization" for name in headers):
        raise InvalidArgument(
            "fetch sends this client's key as Authorization, which the app does not see; for an app with "
            "a key of its own, make a URL with ports.link() and request that"
        )


def app_path(sandbox_id: str, port: str, path: str) -> str:
    """The path by which an app on a port of a sandbox is reached, with its query. None leads out of the app."""
    way, _, query = path.partition("?")
    if any(unquote(step) in (".", "..") for step in way.split("/")):
        raise InvalidArgument(f"the path {path!r} has a . or .. segment; give the app's path from its root")
    question = f"?{query}" if query else ""
    return f"{sandbox_path(sandbox_id, 'ports', port)}/{way.lstrip('/')}{question}"


def key_path(key_id: str) -> str:
    """The path of an API key."""
    return f"/v1/keys/{_segment(key_id)}"


def webhook_path(webhook_id: str) -> str:
    """The path of a webhook."""
    return f"/v1/webhooks/{_segment(webhook_id)}"


def files_path(sandbox_id: str, *what: str) -> str:
    """The path of one of the file calls."""
    return sandbox_path(sandbox_id, "files", *what)


def cargo_path(cargo_id: str, *rest: str) -> str:
    """The path of a cargo."""
    return "/".join(("/v1/cargos", _segment(cargo_id), *rest))


def octal(mode: int | str | None) -> str | None:
    """Permissions as the wire has them: ``"0644"`` for 0o644, a text as it is."""
    return f"{mode:04o}" if isinstance(mode, int) else mode


def flags(**given_flags: bool) -> dict[str, str]:
    """Query parameters of yes and no."""
    return {name: "true" if value else "false" for name, value in given_flags.items()}


def exec_body(command: str | Sequence[str], stdin: str | bytes | None, **options: object) -> Json:
    """The body of an exec: a string is run by a shell, a sequence is run as it is."""
    what: Json = {"command": command} if isinstance(command, str) else {"argv": list(command)}
    return {**what, **_stdin_field(stdin), **given(**options)}


def _stdin_field(stdin: str | bytes | None) -> Json:
    if isinstance(stdin, bytes):
        return {"stdin_base64": base64_text(stdin)}
    return given(stdin=stdin)


class SpawnOptions(TypedDict, total=False):
    """What `box.spawn` takes beside the command; what is left out, or None, is the server's.

    `timeout_s`, `cwd`, `env`, `user`, `stdin` and `keep_alive` are as for `box.run`. With `tty` it runs on a terminal
    of `rows` (24) and `cols` (80), which is its stdin too; without, `stdin_open` keeps stdin open for `proc.write`.
    It is ended when nobody has been attached, following or waiting for `max_run_after_disconnect_s` seconds.
    Unless `wait_for_reader` is False, it waits at a full buffer for the reader of its output, for up to 30 s while there is none.
    """

    timeout_s: float | None
    cwd: str | None
    env: Mapping[str, str] | None
    user: str | None
    stdin: str | bytes | None
    keep_alive: bool | None
    tty: bool | None
    rows: int | None
    cols: int | None
    stdin_open: bool | None
    max_run_after_disconnect_s: float | None
    wait_for_reader: bool | None


def spawn_body(command: str | Sequence[str], options: SpawnOptions) -> Json:
    """The body of an exec that is not waited for."""
    known("spawn", options, SpawnOptions)
    rest: Json = {name: value for name, value in options.items() if name != "stdin"}
    reader = rest.pop("wait_for_reader", None)
    return exec_body(command, options.get("stdin"), wait_for_reader=reader is not False, **rest)


def wait_slice(remaining_s: float | None) -> float:
    """How long one request may wait: short enough that no proxy between cuts it."""
    return _SLICE_S if remaining_s is None else max(0.0, min(_SLICE_S, remaining_s))


def base64_text(data: bytes) -> str:
    """`data` as the wire carries bytes."""
    return b64encode(data).decode("ascii")


# Answers


def check(response: httpx.Response, url: str) -> None:
    """Raise what an unsuccessful answer stands for; its body must have been read."""
    if response.is_success:
        return
    if response.is_redirect:
        raise BayError(
            f"{url} answered with a redirect to {response.headers.get('location')}, which is not followed; "
            "if that is Bay, set BAY_URL to it"
        )
    body = _json_or_none(response)
    if not _names_an_error(body):
        _not_bay(response, url)
    error = error_from_wire(response.status_code, body)
    _note_retry_after(error, response.headers.get("retry-after", ""))
    raise _where_keys_are(error) if isinstance(error, Unauthorized) else error


def _where_keys_are(error: Unauthorized) -> Unauthorized:
    lacking = error.message.startswith("no API key")
    fact = "no API key; set BAY_API_KEY" if lacking else f"{error.message}; check BAY_API_KEY"
    return Unauthorized(
        f"{fact}: a server keeps the first one it made in admin.key in its data directory, "
        "/var/lib/bay unless set otherwise",
        details=error.details,
        request_id=error.request_id,
    )


def _names_an_error(body: object) -> bool:
    return isinstance(body, dict) and isinstance(cast("Json", body).get("error"), dict)


def check_own(response: httpx.Response, url: str) -> None:
    """Raise what Bay itself says of a call to an app; all that the app answers is good, whatever its status.

    Bay adds a policy to everything that an app answers by path, and to nothing of its own.
    """
    is_of_app = "sandbox allow-scripts" in response.headers.get("content-security-policy", "")
    if not (response.is_success or is_of_app):
        check(response, url)


def decode(response: httpx.Response, url: str) -> Json:
    """The JSON object of a successful answer, {} for an empty one."""
    if not response.content:
        return {}
    body = _json_or_none(response)
    if not isinstance(body, dict):
        _not_bay(response, url)
    return cast("Json", body)


def model(cls: type[Model], data: object) -> Model:
    """A `cls` from what the server said; BayError when it does not describe one."""
    try:
        return from_wire(cls, data)
    except (TypeError, ValueError) as error:
        raise BayError(
            f"the server's answer is not a {cls.__name__} ({error}); is it a Bay of another version?"
        ) from error


def items(page: Json) -> list[object]:
    """The items of one page of a list."""
    return listed(page, "items")


def listed(page: Json, name: str) -> list[object]:
    """The list of that name in an answer."""
    found = page.get(name)
    if not isinstance(found, list):
        raise BayError("the server's answer is not a list; is it a Bay of another version?")
    return cast("list[object]", found)


def next_cursor(page: Json) -> str | None:
    """Where the next page begins, None after the last one."""
    return str(page["next_cursor"]) if page.get("has_more") and page.get("next_cursor") else None


def _json_or_none(response: httpx.Response) -> object:
    try:
        return json.loads(response.content)
    except ValueError:
        return None


def _not_bay(response: httpx.Response, url: str) -> NoReturn:
    kind = response.headers.get("content-type", "no content type").partition(";")[0]
    error = BayError(
        f"{url} answered HTTP {response.status_code} with {kind}, which is not an answer of Bay; "
        "check that BAY_URL is Bay and no proxy stands between"
    )
    error.status = response.status_code
    raise error


def _note_retry_after(error: BayError, header: str) -> None:
    if header.isascii() and header.isdigit():
        error.details.setdefault("retry_after_ms", int(header) * 1000)


# Failures


@contextmanager
def http_errors(url: str) -> Generator[None, None, None]:
    """The one place where what httpx raises becomes Bay's. `details.sent` is False when nothing reached the server."""
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


_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "record layer failure")
"""How OpenSSL, by version, calls an answer that does not begin as TLS does."""


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


class Attempts:
    """Decides, for one call, how long to pause before the next attempt.

    A call that is not safe to send twice is repeated only when the server cannot have acted on it:
    nothing was sent, or the sandbox was not ready to take it. A server that never answered is given
    up quickly; one whose connection broke in the middle is given `retry_s` to come back.
    """

    def __init__(self, call: Call, retry_s: float) -> None:
        self._call = call
        self._deadline = time.monotonic() + retry_s
        self._count = 0
        self._broke = False

    def pause(self, error: BayError) -> float:
        """The pause in seconds; raises `error` to give up."""
        delay = self._delay(error)
        if delay is None or not self._call.repeatable or time.monotonic() + delay > self._deadline:
            raise error
        self._count += 1
        return delay

    def _delay(self, error: BayError) -> float | None:
        if isinstance(error, ConnectionFailed):
            return self._connection_delay(sent=bool(error.details.get("sent", True)))
        if error.status == 503 and (self._call.safe or isinstance(error, SandboxNotReady)):
            return _server_delay(error.details.get("retry_after_ms"))
        return None

    def _connection_delay(self, *, sent: bool) -> float | None:
        self._broke = self._broke or sent
        if (sent and not self._call.safe) or (self._count >= QUICK_ATTEMPTS and not self._broke):
            return None
        return backoff(self._count)


def backoff(failures: int) -> float:
    """The pause after so many failures in a row before this one: none at first, then growing to `MAX_PAUSE_S`."""
    return min(MAX_PAUSE_S, 0.1 * 2 ** (failures - 1)) if failures else 0.0


def _server_delay(retry_after_ms: object) -> float | None:
    return max(MIN_DELAY_S, retry_after_ms / 1000) if isinstance(retry_after_ms, int | float) else None


# Lines


class Lines:
    """Cuts a stream of bytes into its complete lines; what is after the last newline is kept for later."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise BayError(
                f"the server sent an output line of more than {MAX_LINE_BYTES} bytes; is it a Bay of another "
                "version?"
            )
        return [line for line in lines if line.strip()]


class Blocks:
    """Cuts a stream of server-sent events into its complete blocks, each the lines up to an empty one."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The blocks that `data` completes."""
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise BayError(
                f"the server sent an event of more than {MAX_LINE_BYTES} bytes; is it a Bay of another version?"
            )
        return blocks


def line_object(line: bytes) -> Json:
    """The JSON object on one line of output."""
    try:
        found: object = json.loads(line)
    except ValueError as error:
        raise BayError(f"the server sent {line[:40]!r}, which is not a line of output") from error
    if not isinstance(found, dict):
        raise BayError(f"the server sent {line[:40]!r}, which is not a line of output")
    return cast("Json", found)
