"""What a log line shows of text that strangers chose."""

import sys
from io import StringIO

import httpx
import pytest
import structlog
from server_harness import World

from bay.server import logs
from bay.server.web import edge

pytestmark = pytest.mark.pure

ODD = "\x1b]0;title\x07\x9b31m\u202egnp.exe\r\nGET /faked"


@pytest.fixture
def console(own_logs: None, monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """What somebody at a terminal sees."""
    stream = StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(
        edge, "log", structlog.get_logger("bay.http")
    )  # the other keeps what it was first set up with
    logs.configure("info", "console")
    return stream


def _is_harmless(shown: str) -> bool:
    plain = "".join(
        part.partition("m")[2] or part for part in shown.split("\x1b[")
    )  # without the colours of ours
    return all(character.isprintable() or character == "\n" for character in plain)


def test_a_terminal_is_given_no_orders_by_a_path(console: StringIO) -> None:
    structlog.get_logger("test").info("http.request", path=f"/v1/{ODD}", label={"k": ODD})
    shown = console.getvalue()
    assert "title" in shown
    assert shown.count("\n") == 1
    assert _is_harmless(shown), repr(shown)


def test_a_terminal_is_given_no_orders_by_the_message_of_an_error(console: StringIO) -> None:
    try:
        raise ValueError(ODD)
    except ValueError:
        structlog.get_logger("test").exception("http.defect")
    assert "ValueError" in console.getvalue()
    assert _is_harmless(console.getvalue()), repr(console.getvalue())


def test_the_log_leaves_the_stream_to_its_owner(console: StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    structlog.get_logger("test").info("kept")
    of_log = structlog.get_config()["logger_factory"]()._file
    monkeypatch.setattr(logs, "suppress", None)  # as at the end of the interpreter, which closes what is left
    of_log.close()
    assert "kept" in console.getvalue()


@pytest.mark.anyio
async def test_a_key_in_a_path_is_logged_by_nobody(
    bay: World, alice: httpx.AsyncClient, console: StringIO
) -> None:
    chosen = "a key that somebody chose"
    await bay.bay.keys.ensure_admin(chosen, bay.root / "unused")
    made = await bay.key("alice")
    for secret in (chosen, made):
        assert (await alice.post(f"/v1/sandboxes/{secret}/stop")).status_code == 404
    await bay.bay.deferred.flush()
    rows = str(await bay.sql("SELECT path FROM audit"))
    for secret in (chosen, made):
        assert secret not in console.getvalue()
        assert secret not in rows
    assert "/stop" in console.getvalue()
    assert "/stop" in rows
