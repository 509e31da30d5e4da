"""Random calls of several clients, with a plain model beside Bay: after each of them both must say the same.

`BAY_MODEL_EXAMPLES=500` looks longer, at other calls each time; with `BAY_MODEL_SHRINK=1` a failure is made
short.
"""

import asyncio
import os
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from model_host import PROFILES, RETENTION_S, Host
from server_harness import ships, short_dir

from model import EXPIRED, MISSING, Answer, Box, Call, Client, Disagreement, Json, Model, Profile, seen

pytestmark = pytest.mark.host

TIGHT, WIDE, OTHER = Client("alice", "tight"), Client("alice", "wide"), Client("bob", "other")
CLIENTS = (TIGHT, WIDE, OTHER)
QUOTAS = {"key tight": {"sandboxes": 4, "running": 2}, "owner alice": {"sandboxes": 6, "running": 3}}
DAY_S = 86_400
IDEMPOTENCY_KEYS = ("k0", "k1")

clients = st.sampled_from(CLIENTS)
picks = st.integers(0, 11)
names = st.sampled_from(["a", "ab", "b"])
labels = st.fixed_dictionaries({}, optional={"team": st.sampled_from(["x", "y"]), "n": st.just("1")})
# Each advance is at least a twentieth of each idle timeout: smaller pushes of an idle clock are not written.
timeouts = st.sampled_from([100, 1000])
warm_timeouts = st.sampled_from([0, 100, 1000])
creations = st.fixed_dictionaries(
    {"profile": st.sampled_from(sorted(PROFILES))},
    optional={
        "name": names,
        "labels": labels,
        "ttl": st.sampled_from([0, 100, 500, 5000]),
        "idle_timeout": timeouts,
        "warm_timeout": warm_timeouts,
    },
)
changes = st.fixed_dictionaries(
    {},
    optional={
        "name": st.none() | names,
        "labels": labels,
        "idle_timeout": st.none() | timeouts,
        "warm_timeout": st.none() | warm_timeouts,
    },
)
calls = st.sampled_from(
    ["start", "resume", "pause", "stop", "delete", "keepalive", "exec", "run", "extend_ttl"]
)
filters = st.one_of(
    st.tuples(st.just("status"), st.sampled_from(["idle", "ready", "failed", "expired"])),
    st.tuples(st.just("compute"), st.sampled_from(["cold", "warm", "running"])),
    st.tuples(st.just("profile"), st.sampled_from(sorted(PROFILES))),
    st.tuples(st.just("name_prefix"), st.sampled_from(["a", "ab", "b", "c"])),
    st.tuples(st.just("label"), st.sampled_from(["team:x", "team:y", "n:1"])),
)

BODIES: dict[str, Json] = {
    "exec": {"command": "true"},
    "run": {"argv": ["sleep", "1000"], "keep_alive": True},
    "extend_ttl": {"extend_by": 100},
}


def new_model(host: Host) -> Model:
    """An empty model of that Bay."""
    profiles = {
        "lazy": Profile(),
        "eager": Profile(eager=True),
        "pooled": Profile(eager=True),
        "bare": Profile(runs_commands=False),
    }
    return Model(profiles, QUOTAS, host.clock(), RETENTION_S)


def matches(box: Box, view: Json, wanted: tuple[str, str]) -> bool:
    """Whether a filter lets the sandbox through."""
    match wanted:
        case "name_prefix", prefix:
            return (box.name or "").startswith(prefix)
        case "label", pair:
            key, _, value = pair.partition(":")
            return box.labels.get(key) == value
        case field, value:
            return view[field] == value


class Clients(RuleBasedStateMachine):
    """Three clients of two owners, the passing of time, and what goes wrong on a host."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.root = self.stack.enter_context(short_dir())
        self.host = Host(self.root, QUOTAS, {c.key: c for c in CLIENTS})
        self.model = new_model(self.host)
        self.steps = 0

    def teardown(self) -> None:
        self.host.close()
        assert ships(self.root) == []
        self.stack.close()

    # What all rules do

    def do(self, verb: str, by: Client, ref: str = "", body: Json | None = None, **more: Any) -> Answer:
        """Make a call and tell the model."""
        call = Call(verb, by, ref, BODIES.get(verb, {}) if body is None else body, **more)
        answer = self.host.run(self.host.call(call))
        self.model.hear(call, answer)
        return answer

    def pick(self, number: int, by: Client | None = None) -> Box | None:
        """One of the sandboxes there are, of that owner; the newest for 0."""
        there = [b for c in {by.owner} for b in self.model.of(c)] if by else self.present()
        return there[-1 - number % len(there)] if there else None

    def present(self) -> list[Box]:
        """All sandboxes that are there."""
        return [b for b in self.model.boxes.values() if not b.gone]

    def race(self, *raced: Call) -> None:
        """Make calls at once; the model goes on from what then is seen, if it allows that."""
        answers = self.host.run(_at_once(self.host, raced))
        self.host.run(self.host.settle())
        shown = self.host.run(self.shown())
        possible = list(self.model.after_race(list(zip(raced, answers, strict=True))))
        for model in possible:
            model.sweep()
            if {o: model.views(o) for o in shown} == shown:
                self.model = model
                return
        differ = [{o: _differences(items, m.views(o)) for o, items in shown.items()} for m in possible]
        raise Disagreement(f"{raced} gave {answers}, and then what was seen and what may be differ: {differ}")

    async def shown(self) -> dict[str, list[Json]]:
        """What each owner's list shows."""
        return {
            c.owner: [seen(item) for item in (await self.host.get(c, "/v1/sandboxes"))["items"]]
            for c in (WIDE, OTHER)
        }

    # Calls

    @initialize(first=creations, second=creations)
    def begin(self, first: Json, second: Json) -> None:
        self.do("create", TIGHT, body=first)
        self.do("create", OTHER, body=second)

    @rule(by=clients, body=creations, key=st.none() | st.sampled_from(IDEMPOTENCY_KEYS))
    def create(self, by: Client, body: Json, key: str | None) -> None:
        self.do("create", by, body=body, idempotency_key=key)

    @rule(by=clients, body=creations)
    def create_and_wait(self, by: Client, body: Json) -> None:
        self.do("create", by, body=body, waits=True)

    @rule(number=picks, verb=calls, by_name=st.booleans())
    def call(self, number: int, verb: str, by_name: bool) -> None:
        if box := self.pick(number):
            self.do(verb, box.by, (by_name and box.name) or box.id)

    @rule(number=picks, by=clients, verb=calls)
    def call_on_another_keys(self, number: int, by: Client, verb: str) -> None:
        """Any key of the owner may; for any other the sandbox does not exist."""
        if box := self.pick(number):
            self.do(verb, by, box.id)

    @rule(number=picks, verb=st.sampled_from(["start", "exec", "run"]))
    def fail_to_start(self, number: int, verb: str) -> None:
        if box := self.pick(number):
            with self.failing("launch"):
                self.do(verb, box.by, box.id, waits=verb == "start")
                self.host.run(self.host.settle())

    @rule(by=clients, body=creations)
    def create_where_nothing_starts(self, by: Client, body: Json) -> None:
        with self.failing("ready"):
            self.do("create", by, body=body)
            self.host.run(self.host.settle())

    @rule(number=picks)
    def exec_that_fails(self, number: int) -> None:
        if box := self.pick(number):
            self.do("exec", box.by, box.id, {"command": "exit 3"})

    @rule(number=picks)
    def run_what_may_be_frozen(self, number: int) -> None:
        if box := self.pick(number):
            self.do("run", box.by, box.id, {"argv": ["sleep", "1000"], "keep_alive": False})

    @rule(number=picks)
    def kill_exec(self, number: int) -> None:
        box = self.pick(number)
        if box and box.running:
            self.do("kill", box.by, box.id, {"exec": min(box.running)})

    @rule(number=picks, body=changes)
    def patch(self, number: int, body: Json) -> None:
        if box := self.pick(number):
            self.do("patch", box.by, box.id, body)

    @rule(number=picks, by_s=st.sampled_from([1, 1000]), key=st.none() | st.sampled_from(IDEMPOTENCY_KEYS))
    def extend(self, number: int, by_s: int, key: str | None) -> None:
        if box := self.pick(number):
            self.do("extend_ttl", box.by, box.id, {"extend_by": by_s}, idempotency_key=key)

    @rule(number=picks, verb=st.sampled_from(["delete", "get", "exec", "patch", "stop"]))
    def call_on_a_deleted_one(self, number: int, verb: str) -> None:
        gone = [b for b in self.model.boxes.values() if b.gone]
        if gone:
            box = gone[number % len(gone)]
            self.do(verb, box.by, box.id)

    # At once

    @rule(number=picks, first=calls, second=calls)
    def two_calls_at_once(self, number: int, first: str, second: str) -> None:
        if box := self.pick(number):
            self.race(*(Call(v, box.by, box.id, BODIES.get(v, {})) for v in (first, second)))

    @rule(by=st.tuples(clients, clients), body=st.tuples(creations, creations), name=names)
    def two_creates_of_one_name_at_once(
        self, by: tuple[Client, Client], body: tuple[Json, Json], name: str
    ) -> None:
        self.race(*(Call("create", c, body={**b, "name": name}) for c, b in zip(by, body, strict=True)))

    @rule(by=clients, body=creations, key=st.sampled_from(IDEMPOTENCY_KEYS))
    def one_create_twice_at_once(self, by: Client, body: Json, key: str) -> None:
        self.race(*[Call("create", by, body=body, idempotency_key=key)] * 2)

    @rule(numbers=st.tuples(picks, picks), verb=calls)
    def two_sandboxes_at_once(self, numbers: tuple[int, int], verb: str) -> None:
        chosen = [box for n in numbers if (box := self.pick(n))]
        self.race(*(Call(verb, box.by, box.id, BODIES.get(verb, {})) for box in chosen))

    # What happens to Bay

    @rule(seconds=st.sampled_from([50, 100, 100, 300, 1000, 4000]), number=picks)
    def time_passes(self, seconds: int, number: int) -> None:
        if (
            self.model.now - min(b.created_at for b in self.model.boxes.values())
        ).total_seconds() > DAY_S / 2:
            return  # what is kept for a day is not there for ever
        self.host.clock.advance(seconds)
        self.model.now = self.host.clock()
        over = [b for b in self.present() if b.is_expired(self.model.now)]
        if over:
            self.refuse_expired(over[number % len(over)])
        self.model.sweep()

    def refuse_expired(self, box: Box) -> None:
        """It takes no more work, whether the sweep has come by or not."""
        call = Call("exec", box.by, box.id, BODIES["exec"])
        answer = self.host.run(self.host.call(call))
        assert answer.reason in (EXPIRED, MISSING), answer

    @rule(number=picks, tracelessly=st.booleans())
    def lose_a_session(self, number: int, tracelessly: bool) -> None:
        box = self.pick(number)
        if box and box.compute != "cold":
            self.host.run(self.host.kill(box.id, tracelessly=tracelessly))
            self.model.end_by_itself(box.id)

    @rule(number=picks, loses=st.booleans())
    def restart(self, number: int, loses: bool) -> None:
        box = self.pick(number) if loses else None
        killed = box.id if box and box.compute != "cold" else None
        self.host.run(self.host.restart(killed))
        if killed:
            self.model.end_by_itself(killed)

    def failing(self, step: str) -> ExitStack:
        """While the block lasts, what is started fails at that step."""
        self.host.world.driver.fail_at = step
        self.model.host_fails = True
        stack = ExitStack()
        stack.callback(self.works_again)
        return stack

    def works_again(self) -> None:
        """What is started from here on starts."""
        self.host.world.driver.fail_at = None
        self.model.host_fails = False

    # Lists

    @rule(
        by=clients,
        wanted=st.lists(filters, max_size=2, unique_by=lambda f: f[0]),
        limits=st.lists(st.sampled_from([1, 2, 3, 200]), min_size=1, max_size=3),
        meanwhile=st.sampled_from([None, None, "create", "delete"]),
        body=creations,
    )
    def list_in_pages(
        self, by: Client, wanted: list[tuple[str, str]], limits: list[int], meanwhile: str | None, body: Json
    ) -> None:
        """Each page goes on where the last one ended, whatever was made or deleted meanwhile."""
        after, cursor = -1, None
        for number in range(20):
            limit = limits[number % len(limits)]
            there = [b for b in self.filtered(by.owner, wanted) if b.seq > after]
            params = (*wanted, ("limit", str(limit)), *((("cursor", cursor),) if cursor else ()))
            page = self.host.run(self.host.get(by, "/v1/sandboxes", params))
            assert [i["id"] for i in page["items"]] == [b.id for b in there[:limit]], params
            assert page["has_more"] == (page["next_cursor"] is not None) == (len(there) > limit)
            if not page["has_more"]:
                return
            after, cursor = there[:limit][-1].seq, page["next_cursor"]
            if number == 0 and meanwhile:
                self.change_meanwhile(by, meanwhile, there[limit - 1], body)

    def change_meanwhile(self, by: Client, what: str, last: Box, body: Json) -> None:
        """A row is inserted, or the one that the cursor stands on is deleted."""
        if what == "create":
            self.do("create", by, body=body)
        else:
            self.do("delete", by, last.id)
        self.host.run(self.host.settle())

    def filtered(self, owner: str, wanted: list[tuple[str, str]]) -> list[Box]:
        """The owner's sandboxes that all filters let through."""
        now = self.model.now
        return [b for b in self.model.of(owner) if all(matches(b, b.view(now), w) for w in wanted)]

    # What always holds

    @invariant()
    def agrees(self) -> None:
        """Lists, single sandboxes, execs and the host are as the model says, and nobody sees another's."""
        self.model.sweep()
        self.host.run(self.host.settle())
        self.host.run(self.compare())

    async def compare(self) -> None:
        """Ask for everything that can be seen, and raise at the first that is otherwise."""
        shown = await self.shown()
        for owner, items in shown.items():
            expected = self.model.views(owner)
            assert items == expected, _differences(items, expected)
        for box in self.present():
            await self.compare_one(box)
        await self.compare_what_is_hidden()
        compute = await self.host.compute()
        assert sorted(compute) == sorted(b.id for b in self.present() if b.compute != "cold")

    async def compare_one(self, box: Box) -> None:
        mine = await self.host.call(Call("get", box.by, box.id))
        assert seen(mine.body) == box.view(self.model.now)
        assert (mine.body["containers"] is None) == (box.compute == "cold")
        if box.ran:
            execs = (await self.host.get(box.by, f"/v1/sandboxes/{box.id}/execs"))["items"]
            alive = {e["id"] for e in execs if e["state"] == "running"}
            assert alive == set(box.running), (box, execs)

    async def compare_what_is_hidden(self) -> None:
        """Neither a deleted sandbox nor a stranger's can be seen.

        One of each in turn: they do not change any more.
        """
        self.steps += 1
        gone = [b for b in self.model.boxes.values() if b.gone]
        for boxes, is_mine in ((gone, True), (self.present(), False)):
            if boxes:
                box = boxes[self.steps % len(boxes)]
                stranger = OTHER if box.by != OTHER else WIDE
                answer = await self.host.call(Call("get", box.by if is_mine else stranger, box.id))
                assert answer.reason == MISSING, (box, answer)


def _differences(shown: list[Json], expected: list[Json]) -> dict[str, Json]:
    """By sandbox, each field that Bay shows otherwise than the model has it: Bay's and the model's."""
    theirs, mine = ({view["id"]: view for view in views} for views in (shown, expected))
    return {i: found for i in {**mine, **theirs} if (found := _fields(theirs.get(i, {}), mine.get(i, {})))}


def _fields(theirs: Json, mine: Json) -> Json:
    fields = {**theirs, **mine}
    return {f: (theirs.get(f), mine.get(f)) for f in fields if theirs.get(f) != mine.get(f)}


async def _at_once(host: Host, raced: tuple[Call, ...]) -> list[Answer]:
    return list(await asyncio.gather(*map(host.call, raced)))


def rounds() -> settings:
    """As many as a test run has time for, always the same ones; or as many others as somebody asks for."""
    asked = os.environ.get("BAY_MODEL_EXAMPLES")
    return settings(
        max_examples=int(asked or 12),
        stateful_step_count=30,
        derandomize=asked is None,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink) if os.environ.get("BAY_MODEL_SHRINK") else (Phase.generate,),
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.filter_too_much,
            HealthCheck.large_base_example,
            HealthCheck.data_too_large,
        ],
    )


TestClients = Clients.TestCase
TestClients.settings = rounds()
TestClients = pytest.mark.long(pytest.mark.timeout(3600)(TestClients))
