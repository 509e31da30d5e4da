"""The embedded Bay of `bay run`, inside the calling process; its port, key and directory end with it."""

import asyncio
import secrets
import tempfile
import threading
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from bay.server import logs, settings
from bay.server.control_plane import ControlPlane
from bay.server.main import run
from bay.server.offline import leftover_runs

_START_S = 60
_STOP_S = 30


@contextmanager
def start(**given: Any) -> Generator[tuple[str, str], None, None]:
    """Serve on a free loopback port for the block; gives the URL and an admin key. Raises its BayError."""
    home = leftover_runs.home()
    leftover_runs.clear(home)
    data_dir = Path(tempfile.mkdtemp(dir=home))
    key = f"bay_{secrets.token_urlsafe(32)}"
    loaded = settings.load(
        None, host="127.0.0.1", port=0, data_dir=data_dir, api_key=SecretStr(key), log_level="error",
        cargo_backend="directory",  # nothing to unmount when this is killed
        **given,
    )  # fmt: skip
    if "profiles" not in loaded.model_fields_set:  # a pool is for those who come again
        loaded = loaded.model_copy(update={"profiles": settings.default_profiles()})
    logs.configure(loaded.log_level, loaded.log_format)
    leftover_runs.sign(loaded)
    server = _Thread(loaded)
    try:
        yield server.wait_ready(), key
    finally:
        server.stop()
        leftover_runs.remove(data_dir)


class _Thread:
    """The server's thread, its event loop, and the way to end both."""

    def __init__(self, loaded: settings.Settings) -> None:
        self._ready: Future[tuple[str, asyncio.AbstractEventLoop]] = Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(loaded,), name="bay-embedded", daemon=True)
        self._thread.start()

    def wait_ready(self) -> str:
        """The URL, once requests are answered."""
        return self._ready.result(_START_S)[0]

    def stop(self) -> None:
        """End the server and wait for it."""
        if self._ready.done() and self._ready.exception() is None:
            loop = self._ready.result()[1]
            loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_STOP_S)

    def _run(self, loaded: settings.Settings) -> None:
        try:
            run(loaded, self._on_ready, self._stop)
        except Exception as error:  # noqa: BLE001  the edge of the thread: the waiting caller gets it
            if not self._ready.done():
                self._ready.set_exception(error)

    def _on_ready(self, url: str, _bay: ControlPlane) -> None:
        self._ready.set_result((url, asyncio.get_running_loop()))
