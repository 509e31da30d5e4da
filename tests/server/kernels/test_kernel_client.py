"""What a Ship says of its cells is checked line by line; what is shown of it is put together in order."""

import json
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from bay.cell_output import Shown, event_to_wire, python_result
from bay.errors import ShipError
from bay.models import CELL_EVENT_FIELDS, CellEvent
from bay.server.kernels.ship_client import events_of, parse_event, read_all

pytestmark = [pytest.mark.anyio, pytest.mark.pure]

END = {"seq": 9, "type": "end", "status": "ok", "execution_count": 1, "duration_ms": 5}
STDOUT = {"seq": 0, "type": "stdout", "text": "x"}


def line(**values: Any) -> bytes:
    return json.dumps(values).encode()


def event(seq: int, kind: Any, **values: Any) -> CellEvent:
    return parse_event(line(seq=seq, type=kind, **values))


async def body(*pieces: bytes) -> AsyncGenerator[bytes]:
    for piece in pieces:
        yield piece


@pytest.mark.parametrize(
    "lie",
    [
        b"", b"x", b"[]", b"{}", b"null", line(type="stdout", text="x"), line(seq=-1, type="stdout", text="x"),
        line(seq=1, type="stdin", text="x"), line(seq=1, type="stdout", text=7), line(seq=1 << 64, type="clear"),
        line(seq=1, type="end", status="fine"), line(seq=1, type="end"), line(seq=1, type="display", data=[]),
        b'{"seq":1,"type":"result","data":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        b'{"seq":1,"type":"result","data":{"a":' + b"9" * 9000 + b"}}",
        line(seq=1, type="end", status="ok", message="m" * 10_000),
        b'{"seq":1,"type":"stdout","text":"\\ud800"', b"\xff\xfe", b'{"error":{"code":"not_found"}}',
    ],
)  # fmt: skip
def test_a_line_that_is_no_event_is_the_runtimes_fault(lie: bytes) -> None:
    with pytest.raises(ShipError):
        parse_event(lie)


@pytest.mark.parametrize(
    "shown",
    [
        b'{"seq":1,"type":"result","data":{"application/json":{"a":[NaN]}}}',
        b'{"seq":1,"type":"display","data":{"application/json":1e999}}',
        b'{"seq":1,"type":"result","data":{"a":' + b"[" * 500 + b"]" * 500 + b"}}",
        line(seq=1, type="display", data={str(n): "" for n in range(100)}),
        line(seq=1, type="display", data={"x" * 1000: ""}),
        b'{"seq":1,"type":"result","data":{"application/json":[' + b"[]," * (1 << 20) + b"1]}}",
        b'{"seq":1,"type":"display","data":{"application/json":[' + b'"",' * (1 << 20) + b"1]}}",
    ],
    ids=["nan", "infinity", "deep", "kinds", "kind", "lists", "strings"],
)
def test_a_display_of_a_form_that_is_not_passed_on_becomes_a_note(shown: bytes) -> None:
    found = parse_event(shown)
    assert found.data is not None
    assert found.data["text/plain"].startswith("[not shown")


def test_what_has_too_many_parts_costs_little() -> None:
    shown = b'{"seq":1,"type":"result","data":{"application/json":[' + b"[]," * (3 << 20) + b"1]}}"
    began = time.thread_time()
    assert parse_event(shown).type == "result"
    assert time.thread_time() - began < 0.5


def test_marks_inside_of_strings_are_no_parts() -> None:
    text = '\\",[{' * 200_000 + "\\"
    found = parse_event(line(seq=1, type="result", data={"text/html": text, "application/json": [1, 2]}))
    assert found.data == {"text/html": text, "application/json": [1, 2]}


async def test_large_lines_come_in_their_place() -> None:
    texts = ["a", "b" * (1 << 20), "c"]
    pieces = [line(seq=seq, type="stdout", text=text) + b"\n" for seq, text in enumerate(texts)]
    assert [e.text async for e in events_of(body(*pieces))] == texts


def test_half_a_surrogate_pair_is_replaced_and_a_whole_one_kept() -> None:
    found = parse_event(b'{"seq":1,"type":"stdout","text":"a\\ud800b\\ud83d\\ude00"}')
    assert found.text == "a?b\N{GRINNING FACE}"


async def test_events_may_come_in_any_pieces() -> None:
    whole = line(**STDOUT) + b"\n" + line(**END) + b"\n"
    found = [e async for e in events_of(body(*(whole[n : n + 1] for n in range(len(whole)))))]
    assert [e.type for e in found] == ["stdout", "end"]


@pytest.mark.parametrize("lies", [[STDOUT, STDOUT], [{**END, "seq": 1}, {**STDOUT, "seq": 2}]])
async def test_events_in_no_order_are_the_runtimes_fault(lies: list[dict[str, Any]]) -> None:
    with pytest.raises(ShipError):
        _ = [e async for e in events_of(body(*(line(**lie) + b"\n" for lie in lies)))]


async def test_an_endless_line_and_an_endless_cell_are_cut() -> None:
    async def endless(piece: bytes) -> AsyncGenerator[bytes]:
        while True:
            yield piece

    with pytest.raises(ShipError, match="line of more than"):
        _ = [e async for e in events_of(endless(b"x" * (1 << 20)))]

    async def chatter() -> AsyncGenerator[bytes]:
        seq = 0
        while True:
            seq += 1
            yield line(seq=seq, type="display", data={"application/json": {"a": "x" * 10_000}}) + b"\n"

    with pytest.raises(ShipError, match="more than 1000000 bytes"):
        await read_all(events_of(chatter()), 1_000_000)


@pytest.mark.parametrize("where", ["ename", "evalue"])
async def test_errors_count_with_all_that_is_in_them(where: str) -> None:
    values = {"ename": "E", "evalue": "", where: "x" * 600_000}
    pieces = [line(seq=seq, type="error", traceback=[], **values) + b"\n" for seq in range(2)]
    with pytest.raises(ShipError, match="more than 1000000 bytes"):
        await read_all(events_of(body(*pieces)), 1_000_000)


async def test_a_cell_as_a_whole_has_no_more_parts_than_one_line_may() -> None:
    shown = {"application/json": [1] * 200_000}
    pieces = [line(seq=seq, type="display", data=shown) + b"\n" for seq in range(2)]
    whole = await read_all(events_of(body(*pieces, line(**END) + b"\n")), 10_000_000)
    assert whole[0].data == shown
    assert whole[1].data is not None
    assert whole[1].data["text/plain"].startswith("[not shown")


def test_a_line_on_the_wire_has_what_its_type_has() -> None:
    for kind, fields in CELL_EVENT_FIELDS.items():
        wire = event_to_wire(CellEvent(seq=1, type=kind))
        assert set(wire) == {"seq", "type", *fields}


def test_what_is_shown_is_in_order_with_lines_between() -> None:
    shown = Shown([
        event(1, "stdout", text="a"), event(2, "stdout", text="b"), event(3, "stderr", text="warn\n"),
        event(4, "display", data={"text/plain": "D", "text/html": "<b>D</b>"}),
        event(5, "display", data={"text/plain": "<Figure>", "image/png": "aGk=\n"}),
        event(6, "result", data={"text/plain": "3"}, execution_count=4),
    ])  # fmt: skip
    assert shown.text == "abwarn\nD\n3"
    assert (shown.stream("stdout"), shown.stream("stderr")) == ("ab", "warn\n")
    assert (shown.images, shown.execution_count) == (["aGk="], 4)
    assert shown.results == [{"text/plain": "3"}]


def test_clearing_and_updating_change_what_was_shown() -> None:
    shown = Shown([
        event(1, "stdout", text="gone"), event(2, "clear", wait=False),
        event(3, "display", data={"text/plain": "1 %"}, display_id="bar"),
        event(4, "display", data={"text/plain": "2 %"}, display_id="bar", update=True),
        event(5, "display", data={"text/plain": "nobody"}, display_id="other", update=True),
        event(6, "clear", wait=True),
    ])  # fmt: skip
    assert shown.text == "2 %"
    shown.take(event(7, "stdout", text="new"))
    assert shown.text == "new"


@pytest.mark.parametrize(
    ("status", "restarted", "words"),
    [
        ("timeout", False, "variables were kept"), ("timeout", True, "variables are gone"),
        ("interrupted", False, "was interrupted"), ("lost", True, "killed by signal 9"),
    ],
)  # fmt: skip
def test_python_exec_says_why_code_did_not_end(status: str, restarted: bool, words: str) -> None:
    end = event(2, "end", status=status, restarted=restarted, message="killed by signal 9", duration_ms=1500)
    found = python_result("exec-1", [event(1, "stdout", text="so far\n"), end])
    assert (found.success, found.output, found.execution_time_ms) == (False, "so far\n", 1500)
    assert words in (found.error or "")


def test_python_exec_gives_the_traceback_without_colours() -> None:
    error = event(
        1, "error", ename="ValueError", evalue="no", traceback=["\x1b[31mTrace\x1b[0m", "ValueError: no"]
    )
    found = python_result("exec-1", [error, event(2, "end", status="error")])
    assert (found.success, found.error) == (False, "Trace\nValueError: no")
