"""Ship's errors and their form on the wire.

ShipError
├── InvalidArgument   400 validation_error
├── InvalidPath       400 invalid_path       details.reason is the rule
├── Forbidden         403 forbidden
├── NotFound          404 not_found
│   └── FileMissing   404 file_not_found
├── Conflict          409 conflict
├── OutputGone        410 output_gone        details.first_offset is where to go on
├── PayloadTooLarge   413 payload_too_large
├── RangeNotSatisfiable 416 range_not_satisfiable  details.size is the size in bytes
├── InternalError     500 internal_error
├── PortClosed        502 port_closed        details.listening has the listening ports
└── StorageFull       507 storage_full
"""

from typing import ClassVar


class ShipError(Exception):
    """An error that the peer gets. `details` is JSON for programs."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500

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


class InvalidArgument(ShipError):
    """A field or a query parameter is missing, of the wrong type, or out of range."""

    code = "validation_error"
    status = 400


class InvalidPath(ShipError):
    """A path that is empty, absolute, has a NUL, or leaves the workspace."""

    code = "invalid_path"
    status = 400


class Forbidden(ShipError):
    """The caller, or the sandbox's user, may not do this."""

    code = "forbidden"
    status = 403


class NotFound(ShipError):
    """No such route or exec."""

    code = "not_found"
    status = 404


class FileMissing(NotFound):
    """No such file or directory."""

    code = "file_not_found"


class Conflict(ShipError):
    """The request contradicts the present state, or a limit is reached."""

    code = "conflict"
    status = 409


class OutputGone(ShipError):
    """The ring has overwritten that offset."""

    code = "output_gone"
    status = 410


class PayloadTooLarge(ShipError):
    """A head or body above its bound."""

    code = "payload_too_large"
    status = 413


class RangeNotSatisfiable(ShipError):
    """The file has no such bytes."""

    code = "range_not_satisfiable"
    status = 416


class InternalError(ShipError):
    """A defect of Ship, or a kernel that lacks a needed feature."""


class PortClosed(ShipError):
    """Nothing listens on that port."""

    code = "port_closed"
    status = 502


class StorageFull(ShipError):
    """The disk or the quota is full."""

    code = "storage_full"
    status = 507
