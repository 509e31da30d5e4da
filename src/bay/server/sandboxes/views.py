"""Renders sandboxes as their owners see them: the rows, with additions from the settings."""

from dataclasses import replace

from bay.clock import Clock
from bay.drivers.base import Driver
from bay.models import Profile, Sandbox, SandboxUrl
from bay.server.ports.gate import PortHosts
from bay.server.sessions import lifecycle
from bay.server.sessions.effective_policy import mode_of
from bay.store.records import SandboxRecord


class Views:
    """Shows sandboxes. The driver's capabilities are known once it is open."""

    def __init__(
        self, *, profiles: dict[str, Profile], driver: Driver, hosts: PortHosts, clock: Clock
    ) -> None:
        self._profiles = profiles
        self._driver = driver
        self._hosts = hosts
        self._clock = clock

    def of(self, record: SandboxRecord) -> Sandbox:
        """The sandbox as its owner sees it."""
        profile = self._profiles.get(record.profile)
        capabilities = profile.capabilities if profile else ()
        mode = mode_of(record, profile, self._driver.capabilities.network)
        sandbox = lifecycle.view(record, self._clock(), capabilities, mode)
        return replace(sandbox, url=self._url(record)) if record.url else sandbox

    def _url(self, record: SandboxRecord) -> SandboxUrl | None:
        setting = record.url
        if setting is None:
            return None
        href = self._hosts.url(record.host or record.id, None)
        return SandboxUrl(href=href, port=setting.port, access=setting.access)
