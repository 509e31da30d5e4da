"""The service with which a template's sandboxes start. Pure."""

from bay.models import ServiceHealth, ServiceSpec
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
