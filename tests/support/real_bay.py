"""A real Bay in this process, with the `fake` driver: its URL, a key, and the driver, which can be told to
fail.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from anyio.from_thread import start_blocking_portal
from pydantic import SecretStr
from server_harness import clear, served, ships, short_dir

from bay.drivers.fake import FakeDriver
from bay.server import logs
from bay.server.settings import ProfileSettings

KEY = "bay_" + "k" * 40
PROFILES = {"python-default": ProfileSettings.model_validate({})}


@dataclass(frozen=True, slots=True)
class RealBay:
    """A Bay that answers at `url`; `KEY` is its administrator's."""

    url: str
    driver: FakeDriver

    @property
    def where(self) -> tuple[str, str]:
        """The URL and the key, as a client takes them."""
        return self.url, KEY


@contextmanager
def running(**given: Any) -> Generator[RealBay]:
    """Serve in a thread until the block is left; then end every sandbox."""
    logs.configure("error", "json")
    with short_dir() as root, start_blocking_portal("asyncio", {"use_uvloop": True}) as portal:
        try:
            served_bay = served(root, **{"profiles": PROFILES, "api_key": SecretStr(KEY), **given})
            with portal.wrap_async_context_manager(served_bay) as live:
                yield RealBay(live.url, cast("FakeDriver", live.bay.driver))
        finally:
            portal.call(clear, root)
        assert ships(root) == []
