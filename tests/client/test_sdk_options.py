"""An option that a call does not take is a TypeError that names the nearest one, before anything is sent."""

from collections.abc import Callable
from typing import Any

import pytest

import bay
from bay.client._sync.box import Box
from bay.models import Sandbox

pytestmark = [pytest.mark.anyio, pytest.mark.pure]

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def client() -> Any:
    """Untyped, since a type checker would refuse each of these calls."""
    return bay.Client(NOWHERE, "bay_" + "0" * 40, retry_s=0)


@pytest.fixture
def box(client: Any) -> Any:
    facts: Any = dict.fromkeys(Sandbox.__dataclass_fields__) | {"id": "sandbox-" + "0" * 24}
    return Box(client._http, Sandbox(**facts))


Call = Callable[[Any, Any], object]
CALLS: list[tuple[Call, str]] = [
    (lambda c, _: c.sandboxes.create(nmae="x"), "create(): there is no option nmae; did you mean name?"),
    (lambda c, _: c.sandboxes.create(template_id="x"), "did you mean template?"),
    (lambda c, _: c.sandbox(timeout=60).__enter__(), "sandbox(): there is no option timeout; did you mean ttl?"),
    (lambda c, _: c.sandbox(memory=99).__enter__(), "did you mean memory_mb?"),
    (lambda _, b: b.update(idle_timout=5), "update(): there is no option idle_timout; did you mean idle_timeout?"),
    (lambda _, b: b.spawn("true", timeout=0.1), "spawn(): there is no option timeout; did you mean timeout_s?"),
    (lambda _, b: b.execs.spawn("true", workdir="x"), "did you mean cwd?"),
    (lambda _, b: b.history(success=True), "history(): there is no option success; did you mean success_only?"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "said"), CALLS)
def test_the_nearest_option_is_named(client: Any, box: Any, call: Call, said: str) -> None:
    with pytest.raises(TypeError) as refusal:
        call(client, box)
    assert said in str(refusal.value)
    assert "there are: " in str(refusal.value)


async def test_so_it_is_for_asyncio() -> None:
    client: Any = bay.AsyncClient(NOWHERE, "bay_" + "0" * 40, retry_s=0)
    with pytest.raises(TypeError, match="did you mean name"):
        await client.sandboxes.create(nmae="x")
    with pytest.raises(TypeError, match="did you mean ttl"):
        async with client.sandbox(timeout=60):
            pass
