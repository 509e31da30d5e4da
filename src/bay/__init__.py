"""Bay: sandboxes for programs. A sandbox has a name that stays, files that stay, and compute that comes and goes.

    import bay

    with bay.Client() as client, client.sandbox() as box:
        print(box.run("echo hello").stdout)

`import bay` loads none of what it exports: each name is fetched from its module at first use
(PEP 562), so that a program that only wants `bay.__version__` does not pay for an HTTP client.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bay.client import (
        Admin,
        AsyncAdmin,
        AsyncAudit,
        AsyncBox,
        AsyncClient,
        AsyncExecs,
        AsyncFiles,
        AsyncKeys,
        AsyncProc,
        AsyncSandboxes,
        AsyncWebhooks,
        Audit,
        Box,
        Client,
        CommandFailed,
        CreateOptions,
        Execs,
        Files,
        Keys,
        Proc,
        RunResult,
        Sandboxes,
        UpdateOptions,
        Webhooks,
        verify_webhook,
    )
    from bay.errors import (
        BadRequest,
        BayError,
        CallerError,
        CapabilityNotSupported,
        Conflict,
        ConnectionFailed,
        DriverUnavailable,
        FileMissing,
        Forbidden,
        HostError,
        InternalError,
        InvalidArgument,
        InvalidPath,
        MethodNotAllowed,
        NotFound,
        OutputGone,
        PayloadTooLarge,
        QuotaExceeded,
        SandboxExpired,
        SandboxNotReady,
        SandboxTtlInfinite,
        ShipError,
        StorageFull,
        Timeout,
        Unauthorized,
    )
    from bay.models import (
        AuditEntry,
        Cargo,
        Container,
        Event,
        Exec,
        Failure,
        FileEntry,
        HistoryEntry,
        Key,
        Limits,
        NewKey,
        OutputChunk,
        PoolState,
        Profile,
        Resources,
        Sandbox,
        ShellResult,
        Webhook,
    )

__version__ = "0.1.0"

__all__ = [
    "Admin",
    "AsyncAdmin",
    "AsyncAudit",
    "AsyncBox",
    "AsyncClient",
    "AsyncExecs",
    "AsyncFiles",
    "AsyncKeys",
    "AsyncProc",
    "AsyncSandboxes",
    "AsyncWebhooks",
    "Audit",
    "AuditEntry",
    "BadRequest",
    "BayError",
    "Box",
    "CallerError",
    "CapabilityNotSupported",
    "Cargo",
    "Client",
    "CommandFailed",
    "Conflict",
    "ConnectionFailed",
    "Container",
    "CreateOptions",
    "DriverUnavailable",
    "Event",
    "Exec",
    "Execs",
    "Failure",
    "FileEntry",
    "FileMissing",
    "Files",
    "Forbidden",
    "HistoryEntry",
    "HostError",
    "InternalError",
    "InvalidArgument",
    "InvalidPath",
    "Key",
    "Keys",
    "Limits",
    "MethodNotAllowed",
    "NewKey",
    "NotFound",
    "OutputChunk",
    "OutputGone",
    "PayloadTooLarge",
    "PoolState",
    "Proc",
    "Profile",
    "QuotaExceeded",
    "Resources",
    "RunResult",
    "Sandbox",
    "SandboxExpired",
    "SandboxNotReady",
    "SandboxTtlInfinite",
    "Sandboxes",
    "ShellResult",
    "ShipError",
    "StorageFull",
    "Timeout",
    "Unauthorized",
    "UpdateOptions",
    "Webhook",
    "Webhooks",
    "__version__",
    "verify_webhook",
]

_MODELS = frozenset(
    {
        "AuditEntry",
        "Cargo",
        "Container",
        "Event",
        "Exec",
        "Failure",
        "FileEntry",
        "HistoryEntry",
        "Key",
        "Limits",
        "NewKey",
        "OutputChunk",
        "PoolState",
        "Profile",
        "Resources",
        "Sandbox",
        "ShellResult",
        "Webhook",
    }
)
_CLIENT = frozenset(
    {
        "Admin",
        "AsyncAdmin",
        "AsyncAudit",
        "AsyncBox",
        "AsyncClient",
        "AsyncExecs",
        "AsyncFiles",
        "AsyncKeys",
        "AsyncProc",
        "AsyncSandboxes",
        "AsyncWebhooks",
        "Audit",
        "Box",
        "Client",
        "CommandFailed",
        "CreateOptions",
        "Execs",
        "Files",
        "Keys",
        "Proc",
        "RunResult",
        "Sandboxes",
        "UpdateOptions",
        "Webhooks",
        "verify_webhook",
    }
)


def __getattr__(name: str) -> object:
    """The export `name`, from the module that has it. What is neither client nor model is an error class."""
    if name not in __all__:
        raise AttributeError(f"module 'bay' has no attribute {name!r}")
    home = "bay.client" if name in _CLIENT else "bay.models" if name in _MODELS else "bay.errors"
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
