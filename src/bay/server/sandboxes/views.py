"""Renders sandboxes as their owners see them: the rows, with additions from the settings."""

from dataclasses import replace

from bay.models import Sandbox, SandboxUrl
from bay.server.ports.gate import PortHosts
from bay.server.sessions import lifecycle
from bay.server.sessions.core import Core
from bay.server.sessions.effective_policy import mode_of
from bay.server.sessions.sizes import sizes_of
from bay.store.records import SandboxRecord


def view_of(core: Core, hosts: PortHosts, record: SandboxRecord) -> Sandbox:
    """The sandbox as its owner sees it. Call it once the driver is open, and its capabilities are known."""
    profile = core.profiles.get(record.profile)
    mode = mode_of(record, profile, core.driver.capabilities)
    sizes = sizes_of(record.sizes, profile) if profile else record.sizes
    sandbox = lifecycle.view(record, core.clock(), profile.capabilities if profile else (), mode, sizes)
    if (setting := record.url) is None:
        return sandbox
    href = hosts.url(record.host or record.id, None)
    return replace(sandbox, url=SandboxUrl(href=href, port=setting.port, access=setting.access))
