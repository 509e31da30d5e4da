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
        AsyncBox,
        AsyncClient,
        AsyncExecs,
        AsyncFiles,
        AsyncProc,
        AsyncSandboxes,
        Box,
        Client,
        CommandFailed,
        CreateOptions,
        Execs,
        Files,
        Proc,
        RunResult,
        Sandboxes,
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
        Cargo,
        Container,
        Exec,
        Failure,
        FileEntry,
        OutputChunk,
        Profile,
        Resources,
        Sandbox,
        ShellResult,
    )

__version__ = "0.1.0"

__all__ = [
    "AsyncBox",
    "AsyncClient",
    "AsyncExecs",
    "AsyncFiles",
    "AsyncProc",
    "AsyncSandboxes",
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
    "Exec",
    "Execs",
    "Failure",
    "FileEntry",
    "FileMissing",
    "Files",
    "Forbidden",
    "HostError",
    "InternalError",
    "InvalidArgument",
    "InvalidPath",
    "MethodNotAllowed",
    "NotFound",
    "OutputChunk",
    "OutputGone",
    "PayloadTooLarge",
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
    "__version__",
]

_MODELS = frozenset(
    {
        "Cargo",
        "Container",
        "Exec",
        "Failure",
        "FileEntry",
        "OutputChunk",
        "Profile",
        "Resources",
        "Sandbox",
        "ShellResult",
    }
)
_CLIENT = frozenset(
    {
        "AsyncBox",
        "AsyncClient",
        "AsyncExecs",
        "AsyncFiles",
        "AsyncProc",
        "AsyncSandboxes",
        "Box",
        "Client",
        "CommandFailed",
        "CreateOptions",
        "Execs",
        "Files",
        "Proc",
        "RunResult",
        "Sandboxes",
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
