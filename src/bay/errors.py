"""Bay's error classes, on both sides of the wire; docs/errors.md lists them by code.

A CallerError is the caller's to mend, a HostError Bay's or the host's, and ConnectionFailed is the SDK's own,
never sent over the wire. The server turns an error into JSON in one place, and the SDK rebuilds the same
class from `code` with `error_from_wire`. Messages name the thing, the fact and the way out.
"""

from typing import Any, ClassVar, cast

__all__ = [
    "BadRequest",
    "BayError",
    "BuildFailed",
    "CallerError",
    "CapabilityNotSupported",
    "Conflict",
    "ConnectionFailed",
    "DatabaseUnavailable",
    "DriverUnavailable",
    "FileMissing",
    "Forbidden",
    "HostError",
    "ImageDenied",
    "ImageInvalid",
    "ImageNotFound",
    "ImagePlatform",
    "ImageTooLarge",
    "InternalError",
    "InvalidArgument",
    "InvalidPath",
    "MethodNotAllowed",
    "NotFound",
    "ObjectStoreRefused",
    "ObjectStoreUnavailable",
    "OutputGone",
    "PayloadTooLarge",
    "PortClosed",
    "QuotaExceeded",
    "RangeNotSatisfiable",
    "RegistryUnavailable",
    "RequestTimeout",
    "SandboxExpired",
    "SandboxNotReady",
    "SandboxTtlInfinite",
    "SecretMissing",
    "ShipError",
    "StorageFull",
    "Timeout",
    "Unauthorized",
]


class BayError(Exception):
    """The base class of all errors that Bay raises on purpose.

    `code` is its name on the wire, `status` the HTTP status, `retryable` whether the same call may succeed
    later, `exit_code` the exit code of the CLI; a subclass names those it does not inherit as keywords.
    `details` is JSON for programs.
    """

    code: ClassVar[str] = "error"
    status: int = 500
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init_subclass__(
        cls,
        code: str | None = None,
        status: int | None = None,
        retryable: bool | None = None,
        exit_code: int | None = None,
    ) -> None:
        named = {"code": code, "status": status, "retryable": retryable, "exit_code": exit_code}
        for name, value in named.items():
            if value is not None:
                setattr(cls, name, value)

    def __init__(
        self, message: str, *, details: dict[str, Any] | None = None, request_id: str | None = None
    ) -> None:
        if not message.isascii():  # names of files may have bytes that are no text, which no answer can bear
            message = message.encode("utf-8", "replace").decode("utf-8")
        super().__init__(message)
        self.message = message
        self.details = details or {}
        self.request_id = request_id


class CallerError(BayError, status=400, exit_code=2):
    """The caller must change the request."""


class Unauthorized(CallerError, code="unauthorized", status=401):
    """The request has no key, or an unknown, revoked or expired one. Send `Authorization: Bearer <key>`."""


class Forbidden(CallerError, code="forbidden", status=403):
    """The key is valid but lacks a permission. Use a key with the scope that the message names."""


class NotFound(CallerError, code="not_found", status=404):
    """You have nothing with that id or name; another owner's things answer the same."""


class FileMissing(NotFound, code="file_not_found"):
    """The sandbox has no such file or directory."""


class InvalidArgument(CallerError, code="validation_error", status=422):
    """A field is missing, of the wrong type, or out of range; `details` names it."""


class BadRequest(InvalidArgument, status=400):
    """A value is well-formed but matches nothing, such as an unknown profile."""


class InvalidPath(InvalidArgument, code="invalid_path", status=400):
    """The path is empty, absolute, has a NUL, or leaves the workspace; `details.reason` names the rule."""


class PayloadTooLarge(CallerError, code="payload_too_large", status=413):
    """The body is larger than the limit in the message; send it in parts or as an upload."""


class MethodNotAllowed(CallerError, code="method_not_allowed", status=405):
    """The path exists but does not take this method; see the API docs."""


class CapabilityNotSupported(CallerError, code="capability_not_supported"):
    """The profile, driver or cargo backend lacks a capability of the call, or a runtime that an earlier Bay
    started does; restart the sandbox to get the new one. `details.available` lists the available ones.
    """


class Conflict(CallerError, code="conflict", status=409):
    """The request conflicts with the present state: a taken name, a used cargo, a reused idempotency key."""


class SandboxExpired(Conflict, code="sandbox_expired"):
    """The sandbox is past its `expires_at` and takes no work. Create a new one."""


class SandboxTtlInfinite(Conflict, code="sandbox_ttl_infinite"):
    """The sandbox never expires, so there is nothing to extend."""


class SecretMissing(Conflict, code="secret_missing"):
    """A secret that the sandbox is given was deleted. Set it again, or create a sandbox without it."""


class OutputGone(CallerError, code="output_gone", status=410):
    """The output at that offset is no longer buffered. Continue from `details.first_offset`."""


class RangeNotSatisfiable(CallerError, code="range_not_satisfiable", status=416):
    """The file has no byte in that `Range`. `details.size` is its size."""


class ImageNotFound(NotFound, code="image_not_found"):
    """The registry has no such repository, tag or digest, or lacks a layer of it. Check the reference for a
    slip, or push the image again.
    """


class ImageDenied(CallerError, code="image_denied", status=403):
    """The registry wants other credentials, or Bay's operator does not allow it. The message says which."""


class ImageInvalid(CallerError, code="image_invalid", status=422):
    """The image breaks a rule of its format or a bound of Bay's; the message names it. Build it again."""


class ImagePlatform(CallerError, code="image_platform", status=422):
    """The image is for other machines than Bay's. `details.platforms` lists its platforms."""


class ImageTooLarge(CallerError, code="image_too_large", status=413):
    """The image is larger than the limit in the message. Make it smaller, or have the operator raise it."""


class BuildFailed(CallerError, code="build_failed", status=422, exit_code=1):
    """A step of a build failed; the message has its line and its last output. Mend the step."""


class RequestTimeout(CallerError, code="request_timeout", status=408, retryable=True):
    """The request was slower than the limit in the message. Send it again, without pauses."""


class QuotaExceeded(CallerError, code="quota_exceeded", status=429, retryable=True):
    """A limit of the key or the owner is reached; the message names it. Try again after `Retry-After`."""


class HostError(BayError, retryable=True):
    """Bay or its host failed; the request was valid."""


class SandboxNotReady(HostError, code="session_not_ready", status=503):
    """The sandbox's compute is not ready yet. Try again after `Retry-After`."""


class DriverUnavailable(HostError, code="driver_unavailable", status=503):
    """The host cannot run containers as requested. `bay doctor` lists the missing parts."""


class StorageFull(HostError, code="storage_full", status=507):
    """The disk, or the sandbox's share of it, is full. Free space and try again."""


class DatabaseUnavailable(HostError, code="database_unavailable", status=503):
    """Bay's database cannot be reached or used. Try again later with the same idempotency key: the call may
    have taken effect. Bay's log has the reason.
    """


class RegistryUnavailable(HostError, code="registry_unavailable", status=503):
    """The registry cannot be reached, is too slow, or fails. Try again later; the message has the reason."""


class ObjectStoreUnavailable(HostError, code="object_store_unavailable", status=503):
    """The object store cannot be reached, is too slow, or fails. Try again later; the message has why."""


class ObjectStoreRefused(HostError, code="object_store_refused", status=502, retryable=False):
    """The object store refuses Bay: its bucket, region or credentials are wrong. The message says which, and
    Bay's operator mends the settings; `bay doctor` tries them.
    """


class ShipError(HostError, code="ship_error", status=502):
    """The runtime inside the sandbox failed or sent an invalid answer. Stop and start the sandbox."""


class PortClosed(HostError, code="port_closed", status=502):
    """Nothing in the sandbox listens on that port; `details.listening` lists the ports with a listener."""


class Timeout(HostError, code="timeout", status=504):
    """The call took longer than allowed, and may or may not have taken effect."""


class InternalError(HostError, code="internal_error", status=500, retryable=False):
    """Bay has a defect. Report it with the request id."""


class ConnectionFailed(BayError, code="connection_failed", status=0, retryable=True):
    """The SDK could not reach Bay, or the connection broke. Check the URL and that `bay serve` runs."""


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
