"""Events and webhooks through the SDK: on a real Bay, and over connections that break where
they are told to.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing
from itertools import islice

import httpx
import pytest

import bay

URL = "https://[2606:4700::1111]/hook"
"""Nothing is sent there: the type that is asked for does not come."""


def test_events_of_a_sandbox_are_followed_to_its_end_and_read_again(client: bay.Client) -> None:
    with client.sandbox() as box:
        with closing(box.events("0")) as events:
            seen = list(islice(events, 3))
        assert [event.type for event in seen] == ["sandbox.created", "sandbox.starting", "sandbox.ready"]
        rest = box.events(seen[0].id)
        assert next(rest) == seen[1]
        box.delete()
        assert [event.type for event in rest][-1] == "sandbox.deleted"
    again = list(client.events(sandbox=box.id, follow=False))
    assert again[:3] == seen
    assert list(client.events(again[1].id, sandbox=box.id)) == again[2:]  # followed, and at its end at once
    assert list(client.events(again[-1].id, sandbox=box.id)) == []


def test_events_of_all_sandboxes_come_page_by_page(client: bay.Client) -> None:
    with client.sandbox() as box:
        kept = list(client.events(follow=False))
        assert {event.sandbox_id for event in kept} >= {box.id}
        with closing(client.events("0")) as events:
            assert list(islice(events, len(kept))) == kept


def test_webhooks_are_made_listed_and_removed(client: bay.Client) -> None:
    made = client.webhooks.create(URL, ["sandbox.failed"])
    assert made.secret
    assert made.secret not in repr(made)
    assert client.webhooks.get(made.id).url == URL
    assert [webhook.id for webhook in client.webhooks.list()] == [made.id]
    client.webhooks.delete(made.id)
    assert client.webhooks.list() == []
    with pytest.raises(bay.NotFound):
        client.webhooks.delete(made.id)
    with pytest.raises(bay.InvalidArgument):
        client.webhooks.create("http://127.0.0.1/")


# Faults


def block(number: int, kind: str = "sandbox.ready") -> bytes:
    data: dict[str, object] = {
        "id": str(number),
        "type": kind,
        "sandbox_id": "s",
        "at": "2030-01-01T00:00:00Z",
        "data": {},
    }
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()


class Breaking(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The pieces, and then no end of the answer."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces
        raise httpx.ReadError("cut")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


def answering(*answers: bytes | Breaking | int, asked: list[str | None]) -> httpx.MockTransport:
    """Gives each answer once, and notes from where the client wanted to go on."""
    left = list(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params.get("since"))
        given = left.pop(0)
        if isinstance(given, int):
            return httpx.Response(given, json={"error": {"code": "driver_unavailable", "message": "no"}})
        return (
            httpx.Response(200, stream=given)
            if isinstance(given, Breaking)
            else httpx.Response(200, content=given)
        )

    return httpx.MockTransport(answer)


CUTS = (
    Breaking(b"id: start\n\n"),
    Breaking(b": ping\n\n" + block(1) + block(2)[:20]),
    503,
    block(2)[:9] + block(2)[9:] + b": ping\n\n",
    Breaking(b"id: 2\n\n", block(3)[:30], block(3)[30:]),
    block(4, "sandbox.deleted"),
)
WANTED = [None, "start", "1", "1", "2", "3"]


def test_a_broken_stream_is_taken_up_behind_the_last_whole_event() -> None:
    asked: list[str | None] = []
    with bay.Client("http://bay", transport=answering(*CUTS, asked=asked)) as client:
        assert [event.id for event in client.events(sandbox="web")] == ["1", "2", "3", "4"]
    assert asked == WANTED


@pytest.mark.anyio
async def test_so_does_the_async_client() -> None:
    asked: list[str | None] = []
    async with (
        bay.AsyncClient("http://bay", transport=answering(*CUTS, asked=asked)) as client,
        aclosing(client.events(sandbox="web")) as events,
    ):
        assert [event.id async for event in events] == ["1", "2", "3", "4"]
    assert asked == WANTED


@pytest.mark.parametrize("answer", [b"", b"id: 1\n\n", Breaking()])
def test_a_server_that_never_says_anything_is_given_up(answer: bytes | Breaking) -> None:
    asked: list[str | None] = []
    transport = answering(*[answer] * 9, asked=asked)
    with (
        bay.Client("http://bay", transport=transport, retry_s=0.3) as client,
        pytest.raises(bay.ConnectionFailed),
    ):
        next(client.events())
    assert 2 <= len(asked) < 9


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda: httpx.Response(404, json={"error": {"code": "not_found", "message": "x"}}), bay.NotFound),
        (
            lambda: httpx.Response(429, json={"error": {"code": "quota_exceeded", "message": "x"}}),
            bay.QuotaExceeded,
        ),
        (lambda: httpx.Response(200, content=b"data: {}\n\n"), bay.BayError),
        (lambda: httpx.Response(200, content=b"data: no json\n\n"), bay.BayError),
        (lambda: httpx.Response(200, content=b"x" * (17 << 20)), bay.BayError),
    ],
)
def test_what_cannot_get_better_is_raised_at_once(
    answer: Callable[[], httpx.Response], error: type[bay.BayError]
) -> None:
    transport = httpx.MockTransport(lambda _request: answer())
    with bay.Client("http://bay", transport=transport) as client, pytest.raises(error) as raised:
        next(client.events())
    assert type(raised.value) is error
