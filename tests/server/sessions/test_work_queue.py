"""The queue of keys that merges."""

import asyncio

import pytest
from server_harness import within

from bay.server.sessions.work_queue import WorkQueue
from bay.tracing import Tracing

pytestmark = [pytest.mark.anyio, pytest.mark.pure]


async def take(queue: WorkQueue) -> str:
    async with queue.take() as key:
        return key


async def test_a_key_that_waits_is_not_put_twice() -> None:
    queue = WorkQueue()
    for key in ("a", "b", "a", "b"):
        queue.put(key)
    assert [await within(take(queue)) for _ in range(2)] == ["a", "b"]
    assert len(queue) == 0


async def test_a_key_put_while_it_is_worked_on_comes_round_once_more_and_not_before() -> None:
    queue = WorkQueue()
    queue.put("a")
    async with queue.take() as key:
        queue.put("a")
        queue.put("a")
        second = asyncio.create_task(take(queue))
        for _ in range(5):
            await asyncio.sleep(0)
        assert (key, second.done()) == ("a", False)
    assert await within(second) == "a"
    assert len(queue) == 0


async def test_the_end_of_the_work_on_a_key_can_be_waited_for() -> None:
    queue = WorkQueue()
    await within(queue.left("a"))
    queue.put("a")
    async with queue.take():
        waiting = [asyncio.create_task(queue.left("a")) for _ in range(3)]
        await within(queue.left("b"))
        waiting[0].cancel()
        await asyncio.sleep(0)
        assert not waiting[1].done()
    await within(asyncio.gather(*waiting[1:]))


async def test_a_key_put_as_idle_is_worked_on_once_and_not_again_for_work_that_goes_on() -> None:
    queue = WorkQueue()
    queue.put_idle("a")
    async with queue.take() as key:
        queue.put_idle("a")
    assert (key, len(queue)) == ("a", 0)


async def test_other_keys_are_worked_on_meanwhile() -> None:
    queue = WorkQueue()
    queue.put("a")
    async with queue.take():
        queue.put("b")
        assert await within(take(queue)) == "b"


async def test_a_worker_that_fails_gives_the_key_back_to_those_who_put_it_again() -> None:
    queue = WorkQueue()
    queue.put("a")

    async def fail() -> None:
        async with queue.take():
            queue.put("a")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await within(take(queue)) == "a"


async def test_a_cancelled_wait_takes_no_key_with_it() -> None:
    queue = WorkQueue()
    waiting = asyncio.create_task(take(queue))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    queue.put("a")
    assert await within(take(queue)) == "a"


async def test_no_key_is_worked_on_twice_at_once_by_many_workers() -> None:
    queue = WorkQueue()
    at_work: set[str] = set()
    done: list[str] = []

    async def work() -> None:
        while True:
            async with queue.take() as key:
                assert key not in at_work
                at_work.add(key)
                await asyncio.sleep(0)
                done.append(key)
                at_work.discard(key)

    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(work()) for _ in range(8)]
        for _ in range(200):
            for key in "abc":
                queue.put(key)
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            while len(queue):  # noqa: ASYNC110  turns of the loop, not time
                await asyncio.sleep(0)
        for worker in workers:
            worker.cancel()
    assert set(done) == set("abc")


async def test_the_worker_of_a_key_can_wait_for_it_to_be_put_again() -> None:
    queue = WorkQueue()
    queue.put("a")
    async with queue.take() as key:
        waiting = asyncio.create_task(queue.put_again(key))
        await asyncio.sleep(0)
        assert not waiting.done()
        queue.put("a")
        await within(waiting)
        again = asyncio.create_task(queue.put_again(key))
        await asyncio.sleep(0)
        assert not again.done()
        again.cancel()
    assert len(queue) == 0


def put_by_a_request(queue: WorkQueue, key: str, request_id: str) -> None:
    with Tracing().request("request", request_id, [], []):
        queue.put(key)


def cause(queue: WorkQueue, key: str) -> str | None:
    span = queue.cause(key)
    return span and span.request_id


async def test_the_work_on_a_key_has_the_request_that_asked_first_and_each_round_its_own() -> None:
    queue = WorkQueue()
    queue.put("a")
    put_by_a_request(queue, "a", "first")
    put_by_a_request(queue, "a", "second")
    async with queue.take() as key:
        assert [cause(queue, key) for _ in range(2)] == ["first", None]
        put_by_a_request(queue, "a", "third")
    async with queue.take() as key:
        assert cause(queue, key) == "third"


async def test_a_request_that_the_work_under_way_has_heard_of_is_kept_for_no_later_work() -> None:
    queue = WorkQueue()
    queue.put("a")
    async with queue.take() as key:
        put_by_a_request(queue, "a", "swallowed")
        await within(queue.put_again(key))
    assert cause(queue, "a") is None
    queue.put("a")
    async with queue.take() as key:
        assert cause(queue, key) is None


async def test_a_request_for_a_key_that_went_elsewhere_is_not_kept() -> None:
    owned = {"a"}
    queue = WorkQueue(owned.__contains__)
    queue.put("a")
    async with queue.take():
        put_by_a_request(queue, "a", "first")
        owned.clear()
    assert cause(queue, "a") is None
