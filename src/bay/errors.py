"""Bay's error classes, on both sides of the wire.

    BayError
    ├── CallerError                 the caller's: change the request
    │   ├── Unauthorized            401 unauthorized
    │   ├── Forbidden               403 forbidden
    │   ├── NotFound                404 not_found
    │   │   └── FileMissing         404 file_not_found
    │   ├── InvalidArgument         422 validation_error
    │   │   ├── BadRequest          400 validation_error, for values only Bay can judge
    │   │   └── InvalidPath         400 invalid_path
    │   ├── PayloadTooLarge         413 payload_too_large
    │   ├── MethodNotAllowed        405 method_not_allowed
    │   ├── CapabilityNotSupported  400 capability_not_supported
    │   ├── Conflict                409 conflict
    │   │   ├── SandboxExpired      409 sandbox_expired
    │   │   └── SandboxTtlInfinite  409 sandbox_ttl_infinite
    │   ├── OutputGone              410 output_gone
    │   ├── RangeNotSatisfiable     416 range_not_satisfiable
    │   ├── RequestTimeout          408 request_timeout
    │   └── QuotaExceeded           429 quota_exceeded
    ├── HostError                   Bay's or the host's: the request was valid
    │   ├── SandboxNotReady         503 session_not_ready
    │   ├── DriverUnavailable       503 driver_unavailable
    │   ├── StorageFull             507 storage_full
    │   ├── ShipError               502 ship_error
    │   ├── PortClosed              502 port_closed
    │   ├── Timeout                 504 timeout
    │   └── InternalError           500 internal_error
    └── ConnectionFailed            the SDK could not reach Bay; never sent over the wire

The server turns an error into JSON in one place, and the SDK rebuilds the same class from `code` with
`error_from_wire`. Messages name the thing, the fact and the way out.
"""

from typing import Any, ClassVar, cast

__all__ = [
    "BadRequest",
    "BayError",
    "CallerError",
    "CapabilityNotSupported",
    "Conflict",
    "ConnectionFailed",
    "DriverUnavailable",
    "FileMissing",
    "Forbidden",
    "HostError",
    "InternalError",
    "InvalidArgument",
    "InvalidPath",
    "MethodNotAllowed",
    "NotFound",
    "OutputGone",
    "PayloadTooLarge",
    "PortClosed",
    "QuotaExceeded",
    "RangeNotSatisfiable",
    "RequestTimeout",
    "SandboxExpired",
    "SandboxNotReady",
    "SandboxTtlInfinite",
    "ShipError",
    "StorageFull",
    "Timeout",
    "Unauthorized",
]


class BayError(Exception):
    """The base class of all errors that Bay raises on purpose.

    `code` is its name on the wire, `status` the HTTP status, `retryable` whether the same call
    may succeed later, `exit_code` the exit code of the CLI. `details` is JSON for programs.
    """

    code: ClassVar[str] = "error"
    status: int = 500
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(
        self, message: str, *, details: dict[str, Any] | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = details or {}
        self.request_id = request_id


class CallerError(BayError):
    """The caller must change the request."""

    status = 400
    exit_code = 2


class Unauthorized(CallerError):
    """The request has no key, or an unknown, revoked or expired one. Send `Authorization: Bearer <key>`."""

    code = "unauthorized"
    status = 401


class Forbidden(CallerError):
    """The key is valid but lacks a permission. Use a key with the scope that the message names."""

    code = "forbidden"
    status = 403


class NotFound(CallerError):
    """You have nothing with that id or name; another owner's things answer the same."""

    code = "not_found"
    status = 404


class FileMissing(NotFound):
    """The sandbox has no such file or directory."""

    code = "file_not_found"


class InvalidArgument(CallerError):
    """A field is missing, of the wrong type, or out of range; `details` names it."""

    code = "validation_error"
    status = 422


class BadRequest(InvalidArgument):
    """A value is well-formed but matches nothing, such as an unknown profile."""

    status = 400


class InvalidPath(InvalidArgument):
    """The path is empty, absolute, has a NUL, or leaves the workspace; `details.reason` names the rule."""

    code = "invalid_path"
    status = 400


class PayloadTooLarge(CallerError):
    """The body is larger than the limit in the message; send it in parts or as an upload."""

    code = "payload_too_large"
    status = 413


class MethodNotAllowed(CallerError):
    """The path exists but does not take this method; see the API docs."""

    code = "method_not_allowed"
    status = 405


class CapabilityNotSupported(CallerError):
    """The profile lacks a capability of the call; `details.available` lists the available ones."""

    code = "capability_not_supported"


class Conflict(CallerError):
    """The request conflicts with the present state: a taken name, a cargo in use, a reused
    idempotency key.
    """

    code = "conflict"
    status = 409


class SandboxExpired(Conflict):
    """The sandbox is past its `expires_at` and takes no work. Create a new one."""

    code = "sandbox_expired"


class SandboxTtlInfinite(Conflict):
    """The sandbox never expires, so there is nothing to extend."""

    code = "sandbox_ttl_infinite"


class OutputGone(CallerError):
    """The output at that offset is no longer buffered. Continue from `details.first_offset`."""

    code = "output_gone"
    status = 410


class RangeNotSatisfiable(CallerError):
    """The file has no byte in that `Range`. `details.size` is its size."""

    code = "range_not_satisfiable"
    status = 416


class RequestTimeout(CallerError):
    """The request was slower than the limit in the message. Send it again, without pauses."""

    code = "request_timeout"
    status = 408
    retryable = True


class QuotaExceeded(CallerError):
    """A limit of the key or the owner is reached; the message names it. Try again after `Retry-After`."""

    code = "quota_exceeded"
    status = 429
    retryable = True


class HostError(BayError):
    """Bay or its host failed; the request was valid."""

    retryable = True


class SandboxNotReady(HostError):
    """The sandbox's compute is not ready yet. Try again after `Retry-After`."""

    code = "session_not_ready"
    status = 503


class DriverUnavailable(HostError):
    """The host cannot run containers as requested. `bay doctor` lists the missing parts."""

    code = "driver_unavailable"
    status = 503


class StorageFull(HostError):
    """The disk, or the sandbox's share of it, is full. Free space and try again."""

    code = "storage_full"
    status = 507


class ShipError(HostError):
    """The runtime inside the sandbox failed or sent an invalid answer. Stop and start the sandbox."""

    code = "ship_error"
    status = 502


class PortClosed(HostError):
    """Nothing in the sandbox listens on that port; `details.listening` lists the ports with a listener."""

    code = "port_closed"
    status = 502


class Timeout(HostError):
    """The call took longer than allowed, and may or may not have taken effect."""

    code = "timeout"
    status = 504


class InternalError(HostError):
    """Bay has a defect. Report it with the request id."""

    code = "internal_error"
    status = 500
    retryable = False


class ConnectionFailed(BayError):
    """The SDK could not reach Bay, or the connection broke. Check the URL and that `bay serve` runs."""

    code = "connection_failed"
    status = 0
    retryable = True


def _descendants(cls: type[BayError]) -> list[type[BayError]]:
    return [cls, *(d for sub in cls.__subclasses__() for d in _descendants(sub))]


BY_CODE: dict[str, type[BayError]] = {cls.code: cls for cls in _descendants(BayError) if "code" in vars(cls)}


def error_from_wire(status: int, body: object) -> BayError:
    """Builds the error of an HTTP answer `{"error": {…}}` with `status`.

    An unknown code, or a body that is not Bay's, gives a plain `BayError` with that status.
    """
    error = _as_object(_as_object(body).get("error"))
    cls = BY_CODE.get(str(error.get("code")), BayError)
    rebuilt = cls(
        str(error.get("message") or f"the server answered HTTP {status}"),
        details=_as_object(error.get("details")),
        request_id=str(error["request_id"]) if error.get("request_id") else None,
    )
    rebuilt.status = status
    return rebuilt


def _as_object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
