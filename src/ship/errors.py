"""Ship's errors and their form on the wire: a class names its code and HTTP status in its first line."""

from typing import ClassVar


class ShipError(Exception):
    """An error that the peer gets. `details` is JSON for programs."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500

    def __init_subclass__(cls, code: str | None = None, status: int | None = None) -> None:
        cls.code, cls.status = code or cls.code, status or cls.status

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def to_wire(self) -> dict[str, object]:
        """The body of the answer."""
        error: dict[str, object] = {"code": self.code, "message": self.message}
        if self.details:
            error["details"] = self.details
        return {"error": error}


class InvalidArgument(ShipError, code="validation_error", status=400):
    """A field or a query parameter is missing, of the wrong type, or out of range."""


class InvalidPath(ShipError, code="invalid_path", status=400):
    """A path that is empty, absolute, has a NUL, or leaves the workspace: `details.reason` is the rule."""


class Forbidden(ShipError, code="forbidden", status=403):
    """The caller, or the sandbox's user, may not do this."""


class NotFound(ShipError, code="not_found", status=404):
    """No such route or exec."""


class FileMissing(NotFound, code="file_not_found"):
    """No such file or directory."""


class Conflict(ShipError, code="conflict", status=409):
    """The request contradicts the present state, or a limit is reached."""


class OutputGone(ShipError, code="output_gone", status=410):
    """The ring has overwritten that offset; `details.first_offset` is where to go on."""


class PayloadTooLarge(ShipError, code="payload_too_large", status=413):
    """A head or body above its bound."""


class RangeNotSatisfiable(ShipError, code="range_not_satisfiable", status=416):
    """The file has no such bytes; `details.size` is its size in bytes."""


class InternalError(ShipError):
    """A defect of Ship, or a kernel that lacks a needed feature."""


class PortClosed(ShipError, code="port_closed", status=502):
    """Nothing listens on that port; `details.listening` has the ports with a listener."""


class StorageFull(ShipError, code="storage_full", status=507):
    """The disk or the quota is full."""
