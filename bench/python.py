"""Python that remembers: a cell on a kernel that is there, and the first one of a sandbox, with and without a
kernel that waits.
"""

import time

from bench.base import Bench, ms, running_box
from bench.figures import Figure, Result
from bench.pools import POOLED, pooled_server, wait_full
from bench.raw import Raw

CELLS, STARTS = 200, 10
KERNEL_S = 2.0
CODE = {"code": "1+1"}


def python(bench: Bench) -> list[Result]:
    """`1+1` by `python/exec` on a running kernel, and by a sandbox that has none yet."""
    first: list[float] = []
    with Raw(bench.server) as raw:
        for _ in range(bench.count(STARTS)):
            with running_box(bench.client) as box:
                first.append(ms(lambda: _run(raw, box.id)))
        with running_box(bench.client) as box:
            _run(raw, box.id)
            taken = [ms(lambda: _run(raw, box.id)) for _ in range(bench.count(CELLS))]
    return [
        Figure("python/exec of 1+1", "ms", tuple(taken), "without the SDK"),
        Figure("the first python/exec of a running sandbox", "ms", tuple(first), "a kernel is started"),
    ]


def python_pooled(bench: Bench) -> list[Result]:
    """From the create to the answer of `1+1` where sandboxes wait with their kernel."""
    taken: list[float] = []
    with pooled_server(pool_size=1, more='kernel = "eager"') as server, Raw(server) as raw:
        for _ in range(bench.count(STARTS)):
            wait_full(raw)
            time.sleep(
                KERNEL_S
            )  # whoever waits in a pool is nobody's, so nobody can be asked whether its kernel is ready
            began = time.perf_counter()
            sandbox_id = _create_and_run(raw)
            taken.append((time.perf_counter() - began) * 1000)
            raw.call("DELETE", f"/v1/sandboxes/{sandbox_id}")
    return [
        Figure("create to first python/exec, pool hit with a kernel", "ms", tuple(taken), "without the SDK")
    ]


def _create_and_run(raw: Raw) -> str:
    sandbox_id: str = raw.call("POST", "/v1/sandboxes", {"profile": POOLED})["id"]
    _run(raw, sandbox_id)
    return sandbox_id


def _run(raw: Raw, sandbox_id: str) -> None:
    done = raw.call("POST", f"/v1/sandboxes/{sandbox_id}/python/exec", CODE)
    assert done["success"], done
