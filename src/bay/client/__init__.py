"""The SDK: `Client` for threads, `AsyncClient` for event loops; the same words with and without `await`."""

from bay.client._async.box import AsyncBox
from bay.client._async.client import AsyncClient, AsyncSandboxes
from bay.client._async.execs import AsyncExecs, AsyncProc
from bay.client._async.files import AsyncFiles
from bay.client._results import CommandFailed, RunResult
from bay.client._sync.box import Box
from bay.client._sync.client import Client, Sandboxes
from bay.client._sync.execs import Execs, Proc
from bay.client._sync.files import Files
from bay.client._wire import CreateOptions

__all__ = [
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
]

# Users see `bay.Box` in tracebacks and reprs, not where it happens to be written.
for _exported in [globals()[name] for name in __all__]:
    _exported.__module__ = "bay"
