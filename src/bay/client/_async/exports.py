"""The exports of `bay` from this client, under their public names."""

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
from bay.client._options import CreateOptions, SpawnOptions, UpdateOptions
from bay.client._results import CommandFailed, RunResult

__all__ = [
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
    "CellFailed",
    "CellResult",
    "CommandFailed",
    "CreateOptions",
    "Image",
    "RunResult",
    "SpawnOptions",
    "UpdateOptions",
    "verify_webhook",
]

# Users see `bay.AsyncBox` in tracebacks and reprs, not where it happens to be written.
for _exported in [globals()[name] for name in __all__]:
    _exported.__module__ = "bay"
