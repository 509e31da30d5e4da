"""Whose pulls begin."""

from dataclasses import dataclass
from typing import cast

import pytest

from bay.server.images.puller import in_turn
from bay.store.records import ImageRecord

pytestmark = pytest.mark.pure


@dataclass(frozen=True)
class Due:
    id: str
    owner: str


def turns(due: str, running: str, places: int) -> str:
    """The owners whose pulls may begin, in order; each letter is a pull of an owner of that name."""
    images = [Due(str(number), owner) for number, owner in enumerate(due)]
    return "".join(one.owner for one in in_turn(cast("list[ImageRecord]", images), list(running), places))


@pytest.mark.parametrize(
    ("due", "running", "places", "begin"),
    [
        ("aaaa", "", 3, "aa"),
        ("aaab", "", 3, "aba"),
        ("aaab", "aa", 3, "b"),
        ("aab", "a", 3, "ba"),
        ("abc", "", 3, "abc"),
        ("aabbcc", "b", 4, "acabcb"),
        ("aab", "", 1, "ab"),
        ("ab", "a", 1, "b"),
        ("", "a", 3, ""),
    ],
)
def test_who_has_fewest_pulls_comes_first_and_nobody_takes_all_places(
    due: str, running: str, places: int, begin: str
) -> None:
    assert turns(due, running, places) == begin
