"""The service with which a template's sandboxes start, and whether they can be started for a pool. Pure."""

from bay.models import Profile, ServiceHealth, ServiceSpec
from bay.server.sessions.effective_policy import has_headers
from bay.store.records import TemplateRecord

MAIN = "main"

_EVERY_S = 2.0
_LONGEST_S = 30.0


def template_services(template: TemplateRecord) -> tuple[ServiceSpec, ...]:
    """`main`, if the template has a command for it; its ready command is the health check of that."""
    if template.start_command is None:
        return ()
    ready = template.ready_command
    health = ServiceHealth(argv=ready, interval_s=_EVERY_S, timeout_s=_LONGEST_S) if ready else None
    return (ServiceSpec(name=MAIN, argv=template.start_command, restart="on-failure", health=health),)


def can_have_pool(profile: Profile) -> bool:
    """Whether sandboxes of the profile can start for nobody: nobody has no secrets for its network."""
    return not has_headers(profile.network_policy)
