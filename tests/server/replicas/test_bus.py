"""What replicas tell and ask one another."""

import asyncio
import json
import os
import socket

import pytest
from replica_members import Join, Member
from server_harness import until, within

from bay.server.replicas.bus import SharedEvent
from bay.store.postgres import _readable

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]


async def together(member: Join, *names: str) -> list[Member]:
    """Replicas that hear one another; each answers `mine` by whether it is called so."""
    made = [await member(name) for name in names]
    for one in made:

        async def is_mine(item: str, name: str = one.name) -> bool:
            return item == name

        one.bus.answer("mine", is_mine)
        one.begin()
    for one in made:
        await until(lambda one=one: one.gaps > 0)
    return made


async def test_all_others_hear_what_one_tells_and_it_does_not_hear_itself(member: Join) -> None:
    members = await together(member, "one", "two", "three")
    heard: dict[str, list[str]] = {one.name: [] for one in members}
    for one in members:
        one.bus.hear("word", heard[one.name].extend)
    members[0].bus.tell("word", ["a", "b", "a"])
    await until(lambda: heard["two"] == heard["three"] == ["a", "b"])
    members[1].bus.tell("word", ["c"])
    await until(lambda: heard["one"] == ["c"])
    assert heard["two"] == ["a", "b"]


async def test_more_items_than_a_message_holds_come_in_several(member: Join) -> None:
    one, two = await together(member, "one", "two")
    heard: list[str] = []
    two.bus.hear("word", heard.extend)
    items = [f"sandbox-{number:024x}" for number in range(5_000)]
    one.bus.tell("word", items)
    await until(lambda: len(heard) == len(items))
    assert heard == items


async def test_what_was_to_be_told_is_on_its_way_when_told_returns(member: Join) -> None:
    one, two = await together(member, "one", "two")
    heard: list[str] = []
    two.bus.hear("word", heard.extend)
    one.bus.tell("word", ["last"])
    await within(one.bus.told())
    await one.stop("bus")
    await until(lambda: heard == ["last"])


async def test_any_is_yes_when_one_of_them_says_so(member: Join) -> None:
    one, two, three = await together(member, "one", "two", "three")
    for asking in (one, two, three):
        assert await within(asking.bus.any("mine", "two"))
        assert not await within(asking.bus.any("mine", "nobody"))


async def test_a_replica_that_lives_and_does_not_answer_may_have_meant_yes(member: Join) -> None:
    one, two = await together(member, "one", "two")
    await two.stop("bus")
    assert await within(one.bus.any("mine", "nobody"))
    assert not await within(one.bus.all("mine", "one"))
    assert await within(one.bus.of("two", "mine", "two", 0.05)) is None


async def test_a_replica_that_is_dead_is_not_waited_for(member: Join) -> None:
    one, two = await together(member, "one", "two")
    await two.stop("leases")
    await two.stop("bus")
    await one.sql("UPDATE replicas SET beat_at = clock_timestamp() - interval '11 s' WHERE id = 'two'")
    assert not await within(one.bus.any("mine", "nobody"))
    assert await within(one.bus.all("mine", "one"))


async def test_one_replica_is_asked_alone(member: Join) -> None:
    one, *_ = await together(member, "one", "two", "three")
    assert await within(one.bus.of("three", "mine", "three"))
    assert await within(one.bus.of("two", "mine", "three")) is False


async def test_all_others_are_asked_and_those_that_are_silent_left_out(member: Join) -> None:
    one, _, three = await together(member, "one", "two", "three")
    assert await within(one.bus.others("mine", "three")) == [False, True]
    await three.stop("bus")
    assert not await within(one.bus.all("mine", "two"))  # after which it is not waited for
    assert await within(one.bus.others("mine", "two")) == [True]


async def test_a_connection_that_is_cut_is_made_again_and_the_gap_is_told(member: Join) -> None:
    one, two = await together(member, "one", "two")
    heard: list[str] = []
    two.bus.hear("word", heard.extend)
    of_both = "query IN ('SELECT 1', 'LISTEN \"bay\"')"
    listening = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {of_both}"  # noqa: S608
    gaps = one.gaps, two.gaps
    await one.sql(listening)
    await until(lambda: one.gaps > gaps[0] and two.gaps > gaps[1])
    one.bus.tell("word", ["again"])
    await until(lambda: heard == ["again"])


async def test_a_sender_whose_connection_is_cut_tells_all_the_same(member: Join) -> None:
    one, two = await together(member, "one", "two")
    heard: list[str] = []
    two.bus.hear("word", heard.extend)
    one.bus.tell("word", ["first"])
    await until(lambda: heard == ["first"])
    await two.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE strpos(query, 'pg_notify(') > 0"
        " AND pid <> pg_backend_pid()"
    )
    one.bus.tell("word", ["second"])
    await until(lambda: heard == ["first", "second"])


async def test_a_shared_event_is_set_in_all_and_cleared_in_one(member: Join) -> None:
    one, two = await together(member, "one", "two")
    here, there = SharedEvent(one.bus, "images"), SharedEvent(two.bus, "images")
    here.set()
    assert here.is_set()
    await within(there.wait())
    there.clear()
    assert here.is_set()


async def test_a_question_that_a_replica_fails_to_answer_harms_nobody(member: Join) -> None:
    one, two = await together(member, "one", "two")

    async def fail(_item: str) -> bool:
        raise RuntimeError("a defect")

    two.bus.answer("broken", fail)
    assert await within(one.bus.of("two", "broken", "", 0.2)) is None
    assert await within(one.bus.of("two", "mine", "two"))


async def test_questions_asked_at_once_get_their_own_answers(member: Join) -> None:
    one, *_ = await together(member, "one", "two")
    items = ["two", "nobody"] * 50
    assert await within(asyncio.gather(*(one.bus.any("mine", item) for item in items))) == [
        item == "two" for item in items
    ]


async def test_a_replica_that_left_a_question_unanswered_is_waited_for_once_it_is_heard_again(
    member: Join,
) -> None:
    one, two = await together(member, "one", "two")
    await two.stop("bus")
    assert await within(one.bus.any("mine", "nobody"))
    assert one.bus._silent == {"two"}
    two.bus.hears = False
    two.tasks["bus"] = asyncio.create_task(two.bus.run())
    await until(lambda: two.bus.hears and one.bus._silent == set())  # it may be heard before it hears
    assert not await within(one.bus.any("mine", "nobody"))


async def test_a_message_that_the_database_refuses_keeps_no_other_one(member: Join) -> None:
    one, two = await together(member, "one", "two")
    heard: list[str] = []
    two.bus.hear("word", heard.extend)
    two.bus.hear("other", heard.extend)
    one.bus.tell("word", ["x" * 9_000])
    one.bus.tell("other", ["heard"])
    await until(lambda: heard == ["heard"])


async def test_items_of_any_script_fit_into_messages(member: Join) -> None:
    one, two = await together(member, "one", "two")
    heard: list[str] = []
    two.bus.hear("word", heard.extend)
    items = [f"{number}-" + "\N{GREEK SMALL LETTER OMEGA}" * 500 for number in range(20)]
    one.bus.tell("word", items)
    await until(lambda: heard == items)


async def test_signs_of_life_do_not_pile_up_while_there_is_no_database(
    member: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await member("one")
    monkeypatch.setattr("bay.server.replicas.bus._SIGN_S", 0)
    signs = asyncio.create_task(one.bus._give_signs())
    for _ in range(100):
        await asyncio.sleep(0)
    assert [json.loads(message)["k"] for message in one.bus._waiting()].count("sign") == 1
    assert one.bus._messages == []
    signs.cancel()
    await asyncio.wait([signs])


async def test_answers_under_way_end_with_the_bus(member: Join) -> None:
    one, two = await together(member, "one", "two")
    asked, cancelled = asyncio.Event(), asyncio.Event()

    async def never(_item: str) -> bool:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return True

    two.bus.answer("slow", never)
    asking = asyncio.create_task(one.bus.of("two", "slow", "x"))
    await within(asked.wait())
    await two.stop("bus")
    assert cancelled.is_set()
    assert await within(asking) is None


async def test_the_number_of_a_connection_that_was_lost_may_be_the_next_ones() -> None:
    """The thread of the connection closes it, and an accepted socket of the process gets its number."""
    loop, heard = asyncio.get_running_loop(), asyncio.Event()
    listening, server = socket.socketpair()
    accepted, client = socket.socketpair()
    readable = _readable(listening.fileno())
    with server, accepted, client:
        server.send(b"last words")
        await within(anext(readable))
        number = os.dup2(accepted.fileno(), listening.detach())
        try:
            loop.add_reader(number, heard.set)
            await readable.aclose()
            client.send(b"request")
            await within(heard.wait())
            assert heard.is_set()
        finally:
            loop.remove_reader(number)
            os.close(number)
