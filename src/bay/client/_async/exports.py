"""The exports of `bay` from this client, under their public names."""

from bay.client._async.admin import AsyncAdmin as AsyncAdmin
from bay.client._async.attach import AsyncAttachment as AsyncAttachment
from bay.client._async.audit import AsyncAudit as AsyncAudit
from bay.client._async.box import AsyncBox as AsyncBox
from bay.client._async.box import AsyncBoxes as AsyncBoxes
from bay.client._async.browser import AsyncBrowser as AsyncBrowser
from bay.client._async.cargos import AsyncCargos as AsyncCargos
from bay.client._async.client import AsyncClient as AsyncClient
from bay.client._async.client import AsyncSandboxes as AsyncSandboxes
from bay.client._async.execs import AsyncExecs as AsyncExecs
from bay.client._async.execs import AsyncProc as AsyncProc
from bay.client._async.files import AsyncFiles as AsyncFiles
from bay.client._async.images import AsyncImages as AsyncImages
from bay.client._async.kernels import AsyncKernels as AsyncKernels
from bay.client._async.kernels import AsyncPython as AsyncPython
from bay.client._async.kernels import AsyncRepl as AsyncRepl
from bay.client._async.keys import AsyncKeys as AsyncKeys
from bay.client._async.network import AsyncNetwork as AsyncNetwork
from bay.client._async.open import AsyncFileReader as AsyncFileReader
from bay.client._async.open import AsyncFileWriter as AsyncFileWriter
from bay.client._async.ports import AsyncPorts as AsyncPorts
from bay.client._async.registries import AsyncRegistries as AsyncRegistries
from bay.client._async.remote import AsyncRemoteCheckpoints as AsyncRemoteCheckpoints
from bay.client._async.secrets import AsyncSecrets as AsyncSecrets
from bay.client._async.services import AsyncServices as AsyncServices
from bay.client._async.skills import AsyncSkills as AsyncSkills
from bay.client._async.templates import AsyncTemplates as AsyncTemplates
from bay.client._async.tunnel import AsyncTunnel as AsyncTunnel
from bay.client._async.watch import AsyncWatch as AsyncWatch
from bay.client._async.webhooks import AsyncWebhooks as AsyncWebhooks
from bay.client._cells import CellFailed as CellFailed
from bay.client._cells import CellResult as CellResult
from bay.client._cells import Image as Image
from bay.client._events import verify_webhook as verify_webhook
from bay.client._options import CreateOptions as CreateOptions
from bay.client._options import SpawnOptions as SpawnOptions
from bay.client._options import UpdateOptions as UpdateOptions
from bay.client._results import CommandFailed as CommandFailed
from bay.client._results import RunResult as RunResult

# Users see `bay.AsyncBox` in tracebacks and reprs, not where it happens to be written.
for _name, _exported in list(globals().items()):
    if not _name.startswith("_"):
        _exported.__module__ = "bay"
