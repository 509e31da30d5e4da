"""How long the SDK waits for what, and what a state means that was waited for."""

from bay.errors import BayError, Conflict, DriverUnavailable, SandboxNotReady, Timeout
from bay.models import Sandbox, Service

READY_S = 60.0
"""The default wait of `client.sandbox()` until the sandbox is ready."""

RESUME_S = 60.0
"""The server's default wait for a resume."""

POLL_S = 0.2
"""How long to wait before it is asked again what listens, or how a service is."""

BETWEEN_S = 0.02
"""Between two waits, so that a server that does not wait is not asked in a busy loop."""

GRACE_S = 30.0
"""How much later than its own limit a command may be reported as ended before the SDK gives up."""

TAKING_S = 86_400.0
"""How long a command may leave what is written to it unread."""

ENDING_S = 5.0
"""How long the end of a command that was given up is tried for, which may not have begun yet."""

START_S = 60.0
"""How much longer than other calls a kernel may take to start."""

SEARCH_S = 60.0
"""How much longer than other calls a search may take; Bay gives it half of that."""

COLLECT_S = 120.0
"""How long a collection may take before the client gives it up."""

PREPARE_S = 3600.0
"""How long the memory of a whole host may take to reach its disk."""


def ready(info: Sandbox, wait_s: float) -> Sandbox:
    """`info` if that sandbox is ready; raises what it says it failed with, or SandboxNotReady."""
    name = info.name or info.id
    if info.status == "ready":
        return info
    if info.error is not None:
        raise DriverUnavailable(
            f"{name} could not start: {info.error.message}", details={"code": info.error.code}
        )
    if info.status == "failed":
        raise BayError(f"{name} failed to start without a reason; see the server's log")
    raise SandboxNotReady(
        f"{name} is still {info.status} after {wait_s:g} s; raise `wait` if it needs longer"
    )


def is_ready(service: Service) -> bool:
    """Whether it runs, and well. Raises Conflict when it will not by itself."""
    if service.state == "exited" and service.exit_code == 0:
        return True
    if service.state in ("failed", "exited") or not service.enabled:
        raise Conflict(f"the service {service.name} does not run: {said_of(service)}; see services.logs")
    return service.state == "running" and (service.health is None or service.healthy is True)


def said_of(service: Service) -> str:
    """How it is, in words."""
    health = "" if service.healthy is None else " and healthy" if service.healthy else " and not healthy"
    return f"it is {service.state}{health}" + (f", {service.message}" if service.message else "")


def still_running(exec_id: str, timeout_s: float | None) -> Timeout:
    """The error of one who waited in vain."""
    return Timeout(f"{exec_id} still runs after {timeout_s} s; wait longer, or kill it")
