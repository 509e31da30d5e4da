"""The SDK: `Client` for threads, `AsyncClient` for event loops; the same words with and without `await`.

Each of the two is loaded when one of its names is asked for: few programs need both.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bay.client._async.admin import AsyncAdmin
    from bay.client._async.attach import AsyncAttachment
    from bay.client._async.audit import AsyncAudit
    from bay.client._async.box import AsyncBox, AsyncBoxes
    from bay.client._async.cargos import AsyncCargos
    from bay.client._async.client import AsyncClient, AsyncSandboxes
    from bay.client._async.execs import AsyncExecs, AsyncProc
    from bay.client._async.files import AsyncFiles
    from bay.client._async.kernels import AsyncKernels, AsyncPython, AsyncRepl
    from bay.client._async.keys import AsyncKeys
    from bay.client._async.network import AsyncNetwork
    from bay.client._async.open import AsyncFileReader, AsyncFileWriter
    from bay.client._async.ports import AsyncPorts
    from bay.client._async.services import AsyncServices
    from bay.client._async.tunnel import AsyncTunnel
    from bay.client._async.watch import AsyncWatch
    from bay.client._async.webhooks import AsyncWebhooks
    from bay.client._cells import CellFailed, CellResult, Image
    from bay.client._events import verify_webhook
    from bay.client._results import CommandFailed, RunResult
    from bay.client._sync.admin import Admin
    from bay.client._sync.attach import Attachment
    from bay.client._sync.audit import Audit
    from bay.client._sync.box import Box, Boxes
    from bay.client._sync.cargos import Cargos
    from bay.client._sync.client import Client, Sandboxes
    from bay.client._sync.execs import Execs, Proc
    from bay.client._sync.files import Files
    from bay.client._sync.kernels import Kernels, Python, Repl
    from bay.client._sync.keys import Keys
    from bay.client._sync.network import Network
    from bay.client._sync.open import FileReader, FileWriter
    from bay.client._sync.ports import Ports
    from bay.client._sync.services import Services
    from bay.client._sync.tunnel import Tunnel
    from bay.client._sync.watch import Watch
    from bay.client._sync.webhooks import Webhooks
    from bay.client._wire import CreateOptions, SpawnOptions, UpdateOptions

__all__ = [
    "Admin",
    "AsyncAdmin",
    "AsyncAttachment",
    "AsyncAudit",
    "AsyncBox",
    "AsyncBoxes",
    "AsyncCargos",
    "AsyncClient",
    "AsyncExecs",
    "AsyncFileReader",
    "AsyncFileWriter",
    "AsyncFiles",
    "AsyncKernels",
    "AsyncKeys",
    "AsyncNetwork",
    "AsyncPorts",
    "AsyncProc",
    "AsyncPython",
    "AsyncRepl",
    "AsyncSandboxes",
    "AsyncServices",
    "AsyncTunnel",
    "AsyncWatch",
    "AsyncWebhooks",
    "Attachment",
    "Audit",
    "Box",
    "Boxes",
    "Cargos",
    "CellFailed",
    "CellResult",
    "Client",
    "CommandFailed",
    "CreateOptions",
    "Execs",
    "FileReader",
    "FileWriter",
    "Files",
    "Image",
    "Kernels",
    "Keys",
    "Network",
    "Ports",
    "Proc",
    "Python",
    "Repl",
    "RunResult",
    "Sandboxes",
    "Services",
    "SpawnOptions",
    "Tunnel",
    "UpdateOptions",
    "Watch",
    "Webhooks",
    "verify_webhook",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'bay.client' has no attribute {name!r}")
    importlib.import_module("bay.client._lean")
    home = "bay.client._async.exports" if name.startswith("Async") else "bay.client._sync.exports"
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
