"""Screens of terminals: the model, the repaint, hostile output, and the helper process."""

import asyncio
import time
from collections.abc import AsyncGenerator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bay.errors import InternalError, Timeout
from bay.models import Screen
from bay.server.execs.screen import Screens
from bay.terminal.grid import trimmed
from bay.terminal.model import ScreenBuffer, Terminal
from bay.terminal.render import PLAYED_BYTES, render
from bay.terminal.repaint import repaint

KIB, MIB = 1 << 10, 1 << 20


def shown(data: bytes | str, rows: int = 5, cols: int = 20, scrollback: int = 100) -> Screen:
    """The screen after `data`."""
    return render(data if isinstance(data, bytes) else data.encode(), rows, cols, scrollback)[0]


def again(data: bytes | str, rows: int = 5, cols: int = 20) -> bytes:
    """The repaint after `data`."""
    return render(data if isinstance(data, bytes) else data.encode(), rows, cols, 0)[1]


def fed(text: str, rows: int = 5, cols: int = 12) -> Terminal:
    """A terminal that remembers ten lines, after `text`."""
    terminal = Terminal(rows, cols, 10)
    terminal.feed(text)
    return terminal


def page_state(page: ScreenBuffer) -> object:
    """What is on one of the two screens."""
    return [trimmed(row) for row in page.grid.lines], page.saved


def state(terminal: Terminal) -> dict[str, object]:
    """All of a terminal that a program can make out, but the last character for repetition."""
    return {
        "main": page_state(terminal.main),
        "second": page_state(terminal.second),
        "by": terminal.second_by,
        "history": [trimmed(row) for row in terminal.history],
        "cursor": (terminal.y, terminal.x, terminal.wrapping, terminal.style, terminal.cursor_shape),
        "margins": (terminal.top, terminal.bottom),
        "modes": terminal.modes.on,
        "charsets": (terminal.charsets, terminal.shifted),
        "tabs": terminal.tabs.stops,
        "title": terminal.title,
        "rest": terminal.rest,
    }


# What programs print


def test_text_wraps_and_what_leaves_at_the_top_is_scrollback() -> None:
    screen = shown("one\r\ntwo\r\n" + "x" * 25 + "\r\nfour\r\nfive", rows=4)

    assert screen.lines == ("x" * 20, "xxxxx", "four", "five")
    assert screen.scrollback == ("one", "two")
    assert (screen.cursor_row, screen.cursor_col) == (3, 4)


def test_a_full_line_wraps_only_when_more_comes() -> None:
    assert shown("x" * 20).lines[:2] == ("x" * 20, "")
    assert shown("x" * 20 + "\r\ny").lines[:2] == ("x" * 20, "y")
    assert shown("x" * 20 + "y").lines[:2] == ("x" * 20, "y")


def test_an_editor_draws_on_the_second_screen_and_leaves_the_first_as_it_was() -> None:
    edit = "$ vi\r\n\x1b[?1049h\x1b[2J\x1b[3;3Hfile\x1b[?25l"

    editing = shown(edit)
    left = shown(edit + "\x1b[?25h\x1b[?1049l$ ")

    assert editing.alternate
    assert not editing.cursor_visible
    assert editing.lines == ("", "", "  file", "", "")
    assert not left.alternate
    assert left.lines[:2] == ("$ vi", "$")
    assert (left.cursor_row, left.cursor_col) == (1, 2)


def test_wide_and_combining_characters_take_the_columns_they_take() -> None:
    assert shown("中文e\u0301x").lines[0] == "中文e\u0301x"
    assert shown("中文e\u0301x").cursor_col == 6
    assert shown("中文\x1b[2Gx").lines[0] == " x文", "half of a wide character is none"
    assert shown("x" * 19 + "中").lines[:2] == ("x" * 19, "中")


def test_utf8_that_is_cut_at_the_beginning_is_left_out_and_at_the_end_goes_on() -> None:
    euro = "€".encode()

    assert shown(euro[1:] + b"5").lines[0] == "5"
    assert shown(b"5" + euro[:2]).lines[0] == "5"
    assert shown(again(b"5" + euro[:2]) + euro[2:]).lines[0] == "5€"
    assert shown(b"a\xff\xc3(").lines[0] == "a\ufffd\ufffd("


def test_a_sequence_that_is_cut_at_the_end_goes_on_after_the_repaint() -> None:
    for text in ("a\x1b", "a\x1b[3", "a\x1b]2;ti", "a\x1bP+q", "a\x1b("):
        cut = again(text)
        assert render(cut, 5, 20, 0)[1] == cut
    assert shown(again("a\x1b[3") + b"1mb").lines[0] == "ab"
    assert shown(again("a\x1b]2;ti") + b"tle\x07b").title == "title"


@pytest.mark.parametrize(
    "sequence",
    [
        "\x1b[>4;2m",  # vim asks for modified keys: not underlined
        "\x1b[>c",
        "\x1b[=1;1u",
        "\x1b[<u",
        "\x1b[?u",
        "\x1bP+q436f\x1b\\",
        "\x1bP$q q\x1b\\",
        "\x1b_Gi=1,s=1;AAAA\x1b\\",
        "\x1b^private\x1b\\",
        "\x1b]8;;http://example.org\x1b\\",
        "\x1b]10;?\x07",
        "\x1b]133;A\x07",
        "\x1b]52;c;aGk=\x07",
        "\x1b[?2026h",
        "\x1b[22;0;0t",
        "\x1b[1 q",
        "\x1b[?1;2;3$p",
        "\x1b%G",
        "\x1b[²m",
    ],
)
def test_what_programs_ask_of_newer_terminals_leaves_no_trace(sequence: str) -> None:
    terminal = fed(f"a{sequence}b")

    visible = "a²mb" if "²" in sequence else "ab"
    assert shown(f"a{sequence}b").lines[0] == visible
    assert terminal.style.flags == 0
    assert terminal.title == ""


def test_colours_and_attributes_survive_a_repaint() -> None:
    text = "\x1b[1;3;4;9;31mA\x1b[0;38;5;208;48;2;1;2;3mB\x1b[38:2::9:8:7;7mC\x1b[97;100mD\x1b[22;39;49mE"

    first = fed(text)
    second = fed(repaint(first).decode())

    assert page_state(second.main) == page_state(first.main)
    cells = second.main.grid.lines[0]
    assert [cell[1].foreground for cell in cells[:5]] == ["31", "38;5;208", "38;2;9;8;7", "97", ""]
    assert cells[1][1].background == "48;2;1;2;3"


def test_line_drawing_is_drawn_and_text_after_it_is_text() -> None:
    assert shown("\x1b(0lqqk\x1b(B lq").lines[0] == "┌──┐ lq"
    assert shown("\x1b)0\x0elq\x0flq").lines[0] == "┌─lq"
    assert shown(again("\x1b(0lq") + b"k").lines[0] == "┌─┐"


def test_scrolling_between_margins_inserting_and_deleting() -> None:
    lines = "\r\n".join("abcde")

    assert shown(lines + "\x1b[2;4r\x1b[4;1H\n").lines == ("a", "c", "d", "", "e")
    assert shown(lines + "\x1b[2;4r\x1b[2;1H\x1bM").lines == ("a", "", "b", "c", "e")
    assert shown(lines + "\x1b[2;1H\x1b[2L").lines == ("a", "", "", "b", "c")
    assert shown(lines + "\x1b[2;1H\x1b[2M").lines == ("a", "d", "e", "", "")
    assert shown(lines + "\x1b[2S").lines == ("c", "d", "e", "", "")
    assert shown("abcdef\x1b[3G\x1b[2P").lines[0] == "abef"
    assert shown("abcdef\x1b[3G\x1b[2@").lines[0] == "ab  cdef"
    assert shown("abcdef\x1b[3G\x1b[2X").lines[0] == "ab  ef"
    assert shown("-\x1b[9b|").lines[0] == "----------|"


def test_erasing_at_the_end_of_a_full_line_spares_its_last_character() -> None:
    assert shown("x" * 20 + "\x1b[K\x1b[2X\x1b[Jy").lines[:2] == ("x" * 20, "y")


def test_margins_that_make_no_sense_are_passed_over() -> None:
    screen = shown("\x1b[3;3H\x1b[4;2r\x1b[99;99rx")

    assert screen.lines[2] == "  x"


def test_the_switches_of_the_client_come_back_with_a_repaint() -> None:
    drawn = again("\x1b[?1;2004h\x1b[?1000;1006h\x1b=\x1b[?1003h\x1b[5 q")

    for switch in (b"\x1b[?1h", b"\x1b[?2004h", b"\x1b[?1006h", b"\x1b[?1003h", b"\x1b[?66h", b"\x1b[5 q"):
        assert switch in drawn
    assert b"\x1b[?1000h" not in drawn, "one way to tell of the mouse replaces the other"


def test_a_repaint_does_not_take_the_scrollback_of_the_person_who_looks() -> None:
    drawn = again("text")

    assert b"\x1bc" not in drawn
    assert b"\x1b[3J" not in drawn


def test_a_repaint_is_made_of_what_is_shown_and_not_of_what_was_sent() -> None:
    drawn = again("\x1b]52;c;ZXZpbA==\x07\x1b]2;a\x1b]0;title\x07\x1b[6n\x1b[c\x1b[21tx")

    assert b"]52" not in drawn
    assert b"[6n" not in drawn
    assert b"\x1b[c" not in drawn
    assert b"]2;title\x1b\\" in drawn


# What is too old to be played


def test_what_was_switched_long_ago_still_holds() -> None:
    old = b"$ vi\r\n\x1b]0;my file\x07\x1b[?1049h\x1b[?2004;1006h\x1b[?25l"

    screen, drawn = render(old + b"\x1b[Hx\r\n" * 100_000, 5, 20, 10)

    assert screen.alternate
    assert not screen.cursor_visible
    assert screen.title == "my file"
    assert b"\x1b[?2004h" in drawn
    assert render(drawn + b"\x1b[?1049l", 5, 20, 0)[0].lines[0] == "$ vi", "the shell's screen is behind it"


def test_what_was_switched_back_long_ago_does_not_hold() -> None:
    old = b"\x1b[?1049h\x1b[?25l\x1b[?1h\x1b[?25h\x1b[?1049l\x1b[?1l"

    screen = shown(old + b"line\r\n" * 100_000)

    assert not screen.alternate
    assert screen.cursor_visible
    assert screen.lines == ("line", "line", "line", "line", "")


def test_playing_begins_with_a_whole_line() -> None:
    line = b"0123456789\r\n"

    screen = shown(line * (PLAYED_BYTES // len(line) * 2), scrollback=100_000)

    assert set(screen.scrollback) == {"0123456789"}


# Anything

_PIECES = st.one_of(
    st.text(max_size=12),
    st.sampled_from("\r\n\t\b\x0e\x0f\x1b"),
    st.sampled_from(["中", "e\u0301", "\u200d", "😀", "\x9b", "\x85", "x" * 13, "\n" * 7]),
    st.sampled_from(["\x1b7", "\x1b8", "\x1bM", "\x1bD", "\x1bE", "\x1bH", "\x1bc", "\x1b=", "\x1b#8"]),
    st.sampled_from(["\x1b(0", "\x1b(B", "\x1b)0", "\x1b[!p", "\x1b[3g", "\x1b]2;t\x07", "\x1b]0;"]),
    st.builds(
        "\x1b[{}{}".format,
        st.lists(st.integers(0, 15) | st.just(99_999), max_size=3).map(lambda ns: ";".join(map(str, ns))),
        st.sampled_from("@ABCDEFGHIJKLMPSTXZ`abdefgmrsu"),
    ),
    st.builds(
        "\x1b[{}m".format, st.sampled_from(["", "1", "7;31", "44", "38;5;9", "48;2;1;2;3", "4:3", "0;103"])
    ),
    st.builds(
        "\x1b[{}{}".format,
        st.sampled_from(
            ["?1", "?5", "?6", "?7", "?25", "?47", "?1000", "?1006", "?1047", "?1048", "?1049", "?2004"]
        ),
        st.sampled_from("hl"),
    ),
    st.builds("\x1b[{}{}".format, st.sampled_from(["4", "20"]), st.sampled_from("hl")),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_PIECES, max_size=25).map("".join), st.integers(1, 6), st.integers(1, 12))
@example("〰\x1b[b", 1, 1)  # a wide character again, where not even one fits
def test_a_repaint_gives_the_same_terminal(text: str, rows: int, cols: int) -> None:
    text = text.encode(errors="replace").decode()
    first = fed(text, rows, cols)

    second = fed(repaint(first).decode(), rows, cols)

    assert state(second) == state(first)
    screen, drawn = render(text.encode(), rows, cols, 10)
    assert render(drawn, rows, cols, 10) == (screen, drawn)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_are_too_strange(data: bytes) -> None:
    screen, drawn = render(data, 4, 10, 5)

    assert render(drawn, 4, 10, 5)[0] == screen


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_PIECES, max_size=20).map("".join), st.data())
def test_output_may_be_cut_anywhere_between_repaint_and_what_follows(text: str, data: st.DataObject) -> None:
    everything = text.encode(errors="replace")
    cut = data.draw(st.integers(0, len(everything)))
    whole = render(everything, 4, 10, 5)[0]

    drawn = render(everything[:cut], 4, 10, 5)[1]

    # The last character, for repetition, is the one thing a repaint cannot bring back.
    if b"b" not in everything[cut:]:
        assert render(drawn + everything[cut:], 4, 10, 5)[0] == whole


@pytest.mark.parametrize(
    "piece",
    [
        b"\n", b"\x1b[2J", b"x\x1b[2J", b"\x1b[J", b"\x1b[K", b"x\x1b[K", b"\x1b#8", b"\x1b#8x\x1b[1L",
        b"\x1bM", b"x\x1bM", b"\x1b[9999L", b"\x1b[9999M", b"\x1b[9999@", b"x\x1b[9999@", b"\x1b[9999P",
        b"x\x1b[999b", b"\x1b[9999I", b"\x1b[9999Z", b"\x1b[3g\t", b"\x1b[?1049h\x1b[?1049l", b"\x1bc",
        b"x\xcc\x81", b"\xcc\x81", b"\x1b[" + b"1;" * 500 + b"m", b"\x1b]2;", b"\x1b]2;x\x07", b"\x1bP",
        b"\xc2\x9d", b"\x1b[?5h\x1b[?5l", b"\x1b[1", b"\x1b", b"\xff", b"\xe4\xb8\xad", b"\x1b[4hx",
        b"\x1b[" + b"9" * 5000 + b"A", b"\x1b[" + b"?" * 5000, b"\x1b]" + b"0" * 5000,
    ],
)  # fmt: skip
def test_hostile_output_costs_bounded_time(piece: bytes) -> None:
    data = piece * (64 * KIB // len(piece))
    started = time.process_time()

    screen, drawn = render(data, 1000, 1000, 1000)

    assert time.process_time() - started < 3, "it is below 0.5 where nothing else runs"
    assert len(screen.lines) == 1000
    assert len(drawn) < 40 * MIB


def test_old_output_full_of_switches_costs_bounded_time() -> None:
    started = time.process_time()

    assert not shown(b"\x1b[?1h\x1b[?1049h\x1b[?1049l" * (16 * MIB // 21)).alternate
    assert shown(b"\x1b]2;x\x07" * (16 * MIB // 6)).title == "x"

    assert time.process_time() - started < 15, "it is below 3 where nothing else runs"


# The helper process


@pytest.fixture
async def screens() -> AsyncGenerator[Screens]:
    """A renderer, ended afterwards."""
    running = Screens()
    yield running
    await running.aclose()


@pytest.mark.anyio
async def test_the_helper_renders_one_after_the_other(screens: Screens) -> None:
    many = await asyncio.gather(*(screens.render(f"n{n}".encode(), 5, 20, 10, offset=n) for n in range(8)))

    assert [screen.lines[0] for screen, _ in many] == [f"n{n}" for n in range(8)]
    assert [screen.offset for screen, _ in many] == list(range(8))
    assert shown(many[3][1]).lines[0] == "n3"


@pytest.mark.anyio
async def test_the_helper_takes_all_that_a_sandbox_keeps(screens: Screens) -> None:
    screen, _ = await screens.render(b"line of text\r\n" * (16 * MIB // 14), 24, 80, 10_000)

    assert screen.lines[:23] == ("line of text",) * 23
    assert len(screen.scrollback) == 10_000


STUCK = "import sys, time\nsys.stdin.buffer.readline()\nwhile True: pass\n"
DYING = "import sys\nsys.stdin.buffer.readline()\n"


@pytest.mark.anyio
async def test_a_helper_that_is_stuck_is_replaced() -> None:
    stuck = Screens(deadline_s=0.5, program=("-c", STUCK))
    try:
        with pytest.raises(Timeout, match=r"more than 0\.5 s"):
            await stuck.render(b"x", 5, 20)
        assert not stuck.running
    finally:
        await stuck.aclose()


@pytest.mark.anyio
async def test_a_helper_that_dies_is_replaced() -> None:
    dying = Screens(program=("-c", DYING))
    with pytest.raises(InternalError, match="exited"):
        await dying.render(b"x", 5, 20)
    with pytest.raises(InternalError, match="exited"):
        await dying.render(b"x", 5, 20)
    await dying.aclose()


@pytest.mark.anyio
async def test_a_caller_who_goes_away_leaves_no_half_answer(screens: Screens) -> None:
    await screens.render(b"x", 5, 20)
    task = asyncio.create_task(screens.render(b"\x1b#8x" * 60_000, 1000, 1000))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    screen, _ = await screens.render(b"mine", 5, 20)

    assert screen.lines[0] == "mine"


@pytest.mark.anyio
async def test_too_many_at_once_are_told_so() -> None:
    stuck = Screens(deadline_s=1, program=("-c", STUCK), most_waiting=2)
    first = [asyncio.create_task(stuck.render(b"x", 5, 20)) for _ in range(2)]
    await asyncio.sleep(0)

    with pytest.raises(Timeout, match="2 screens are being rendered"):
        await stuck.render(b"x", 5, 20)

    assert all(isinstance(e, Timeout) for e in await asyncio.gather(*first, return_exceptions=True))
    await stuck.aclose()
