"""Links and cookies: what is signed is believed, and nothing else."""

import string
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bay.clock import ManualClock
from bay.server.ports.links import Pass, PortTokens

pytestmark = pytest.mark.pure

CLOCK = ManualClock()
GIVEN = Pass(
    sandbox_id="sandbox-0123456789abcdef01234567",
    port=8000,
    key_id="key-0123456789abcdef01234567",
    expires_at=(CLOCK() + timedelta(hours=1)).replace(microsecond=0),
    once="abc",
)


@pytest.fixture
def tokens(tmp_path: Path) -> PortTokens:
    made = PortTokens(CLOCK)
    made.open(tmp_path / "ports.key")
    return made


def test_a_token_says_what_was_put_in(tokens: PortTokens) -> None:
    for given in (GIVEN, replace(GIVEN, once=None)):
        token = tokens.seal("link", given)
        assert tokens.read("link", token) == given
        assert set(token) <= set(string.ascii_letters + string.digits + "-_.")


def test_a_link_is_no_cookie_and_a_cookie_no_link(tokens: PortTokens) -> None:
    assert tokens.read("cookie", tokens.seal("link", GIVEN)) is None
    assert tokens.read("link", tokens.seal("cookie", GIVEN)) is None


def test_a_changed_token_is_none(tokens: PortTokens) -> None:
    token = tokens.seal("link", GIVEN)
    for at, old in enumerate(token):
        new = "A" if old != "A" else "B"
        assert tokens.read("link", token[:at] + new + token[at + 1 :]) is None
    for text in (
        "",
        ".",
        token + "A",
        token[:-1],
        token + ".x",
        "x" * 600,
        token[: len(token) // 2],
        token + token,
        "\u00e9.x",
    ):
        assert tokens.read("link", text) is None


def test_a_token_ends_with_its_second(tokens: PortTokens) -> None:
    clock = ManualClock(datetime(2030, 1, 1, tzinfo=UTC))
    late = PortTokens(clock)
    given = replace(GIVEN, expires_at=clock() + timedelta(seconds=10))
    token = late.seal("link", given)
    clock.advance(9.5)
    assert late.read("link", token) == given
    clock.advance(0.5)
    assert late.read("link", token) is None


def test_the_key_is_kept_for_the_owner_of_the_file_alone(tokens: PortTokens, tmp_path: Path) -> None:
    token = tokens.seal("link", GIVEN)
    assert (tmp_path / "ports.key").stat().st_mode & 0o777 == 0o600
    again = PortTokens(CLOCK)
    assert again.read("link", token) is None
    again.open(tmp_path / "ports.key")
    assert again.read("link", token) == GIVEN


def test_a_key_that_was_written_in_part_is_made_anew(tokens: PortTokens, tmp_path: Path) -> None:
    token = tokens.seal("link", GIVEN)
    (tmp_path / "ports.key").write_bytes(b"short")
    again = PortTokens(CLOCK)
    again.open(tmp_path / "ports.key")
    assert again.read("link", token) is None
    assert len((tmp_path / "ports.key").read_bytes()) == 32
