"""The services with which a template's sandboxes start. Pure.

The command that says when it is ready is a service too, which tries until it ends with 0: the state of that
one is the answer, and it is asked again after every start.
"""

from bay.models import ServiceSpec
from bay.store.records import TemplateRecord

MAIN, READY = "main", "ready"


def template_services(template: TemplateRecord) -> tuple[ServiceSpec, ...]:
    """`main` and `ready`, those of the two that the template has a command for."""
    main = (
        ServiceSpec(name=MAIN, argv=template.start_command, restart="on-failure")
        if template.start_command
        else None
    )
    needs = (MAIN,) if main else ()
    ready = (
        ServiceSpec(name=READY, argv=template.ready_command, restart="on-failure", needs=needs)
        if template.ready_command
        else None
    )
    return tuple(spec for spec in (main, ready) if spec is not None)
