"""Measures and traces the reconciler's steps, by their kind and what came of them."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import get_args

from bay.errors import BayError
from bay.server.sessions.core import Core
from bay.server.sessions.lifecycle import Step
from bay.store.fences import LeaseLost

END_REASONS = frozenset(
    ("stopped", "deleted", "expired", "exited", "unreachable", "failed", "restored", "memory_lost")
)
"""Why sessions end."""


def _words(name: str) -> str:
    return "".join(f"_{one.lower()}" if one.isupper() else one for one in name).lstrip("_")


_NAMES: dict[type, str] = {kind: _words(kind.__name__) for kind in get_args(Step)}
"""`ApplySizes` is `apply_sizes`."""


@contextmanager
def measured(core: Core, step: Step, sandbox_id: str) -> Generator[None]:
    """Record the step of that sandbox which the block takes."""
    began, name = time.perf_counter(), _NAMES[type(step)]
    outcome = "done"
    try:
        with core.tracing.work(f"step {name}", sandbox_id):
            yield
    except LeaseLost:
        outcome = "lost"
        raise
    except BayError:
        outcome = "refused"
        raise
    except Exception:
        outcome = "defect"
        raise
    except BaseException:
        outcome = "cancelled"
        raise
    finally:
        core.meters.steps.labels(name, outcome).inc()
        core.meters.step_seconds.labels(name).observe(time.perf_counter() - began)
