"""The comparison with the model can fail: a model that is wrong about one thing is found out, and the true
one is not.
"""

from collections.abc import Callable, Generator

import pytest
from test_model import OTHER, TIGHT, Clients

from model import EXPIRED, Answer, Box, Call, Disagreement, Model, Reason

pytestmark = pytest.mark.host

LAZY = {"profile": "lazy"}


class KnowsNoQuotas(Model):
    """Thinks that everybody may have everything."""

    def _shortages(self, by: object, more: object, besides: object) -> set[Reason]:
        return set()


class NeverFreezes(Model):
    """Thinks that an idle sandbox goes on running."""

    def _idle_out(self, box: Box) -> None:
        box.idle_at = None


class ForgetsFailures(Model):
    """Thinks that a sandbox whose processes died is just idle."""

    def end_by_itself(self, sandbox_id: str) -> None:
        self.boxes[sandbox_id].cool()


class ListsNewestFirst(Model):
    """Has the list the wrong way round."""

    def of(self, owner: str) -> list[Box]:
        return super().of(owner)[::-1]


class StopsFirst(Model):
    """Thinks that a stop wins against whatever comes after it."""

    def _start(self, call: Call, answer: Answer) -> None:
        raise Disagreement("nothing starts")


class HidesTheExpired(Model):
    """Thinks that an expired sandbox is not shown."""

    def views(self, owner: str) -> list[dict[str, object]]:
        return [b.view(self.now) for b in self.of(owner) if EXPIRED not in self._expiry(b)]


def pass_a_quota(machine: Clients) -> None:
    for _ in range(5):
        machine.do("create", TIGHT, body=LAZY)


def idle(machine: Clients) -> None:
    machine.do("start", OTHER, machine.present()[-1].id, waits=True)
    machine.time_passes(100, 0)


def die(machine: Clients) -> None:
    machine.do("start", OTHER, machine.present()[-1].id, waits=True)
    machine.lose_a_session(0, tracelessly=False)


def create_another(machine: Clients) -> None:
    machine.do("create", OTHER, body=LAZY)


def stop_and_start_at_once(machine: Clients) -> None:
    for _ in range(12):  # either may come last: twelve times the same is not to be expected
        machine.two_calls_at_once(0, "stop", "start")


def expire(machine: Clients) -> None:
    machine.do("create", OTHER, body={**LAZY, "ttl": 50})
    machine.time_passes(50, 0)


SCRIPTS: dict[type[Model], Callable[[Clients], None]] = {
    KnowsNoQuotas: pass_a_quota,
    NeverFreezes: idle,
    ForgetsFailures: die,
    ListsNewestFirst: create_another,
    StopsFirst: stop_and_start_at_once,
    HidesTheExpired: expire,
}


@pytest.fixture
def machine() -> Generator[Clients]:
    made = Clients()
    try:
        made.begin(LAZY, LAZY)
        yield made
    finally:
        made.teardown()


def compare_after(script: Callable[[Clients], None], machine: Clients) -> None:
    script(machine)
    machine.agrees()


def test_a_true_model_agrees_with_all_of_it(machine: Clients) -> None:
    for script in SCRIPTS.values():
        compare_after(script, machine)


@pytest.mark.parametrize("wrong", SCRIPTS)
def test_a_wrong_model_is_found_out(machine: Clients, wrong: type[Model]) -> None:
    machine.model.__class__ = wrong
    with pytest.raises(AssertionError):
        compare_after(SCRIPTS[wrong], machine)
