"""Words of a Dockerfile; the first table is Docker's own (buildkit, shell/envVarTest)."""

import random
from contextlib import suppress

import pytest

from bay.builds import words
from bay.errors import InvalidArgument

pytestmark = pytest.mark.pure

VALUES = {"PWD": "/home", "SHELL": "bash", "KOREAN": "한국어", "NULL": "", "W": "two words"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("hello", "hello"),
        ("he'll'o", "hello"),
        ("he\\'llo", "he'llo"),
        ("he\\\\'llo'", "he\\llo"),
        ("abc\\tdef", "abctdef"),
        ("'abc\\tdef'", "abc\\tdef"),
        ('"abc\\tdef"', "abc\\tdef"),
        ('he""llo', "hello"),
        ('he"\\""llo', 'he"llo'),
        ("'hello there'", "hello there"),
        ("'hello\\there'", "hello\\there"),
        ('"hel\'lo"', "hel'lo"),
        ('"hello\\$PWD"', "hello$PWD"),
        ("$PWD", "/home"),
        ("'$PWD'", "$PWD"),
        ("\\$PWD", "$PWD"),
        ("he$PWDx", "he"),
        ("he${PWD}x", "he/homex"),
        ("he$PWD.", "he/home."),
        ("he${XXX:-000}", "he000"),
        ("he${PWD:-000}", "he/home"),
        ("he${XXX:-$PWD:000}", "he/home:000"),
        ("he${XXX:-${PWD}:000}", "he/home:000"),
        ("he${XXX:-${YYY:-b}}", "heb"),
        ("he${NULL:-x}", "hex"),
        ("he${NULL-x}", "he"),
        ("he${XXX-x}", "hex"),
        ("he${XXX:+${PWD}:000}", "he"),
        ("he${PWD:+${PWD}:000}", "he/home:000"),
        ("he${NULL:+x}", "he"),
        ("he${NULL+x}", "hex"),
        ("${PWD:?no}", "/home"),
        ("${NULL?no}", ""),
        ("한글$KOREAN", "한글한국어"),
        ("$", "$"),
        ("a$ b", "a$ b"),
        ("$1a", "a"),
        ("he\\", "he"),
        ("\"a'b'\"", "a'b'"),
        ("${XXX:-'a}b'}", "a}b"),
    ],
)
def test_a_word_is_expanded_as_docker_does(text: str, found: str) -> None:
    assert words.expand(text, VALUES) == found


@pytest.mark.parametrize(
    "text",
    ["'x", '"x', "${", "${PWD", "${}", "${:-x}", "${{x}}", "${PWD:x}", "${PWD!x}", "${PWD:-x", "${X?}"],
)
def test_a_word_that_is_wrong_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        words.expand(text, VALUES)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("80 $W 90", ["80", "two", "words", "90"]),
        ('"$W"', ["two words"]),
        ("'a b' c", ["a b", "c"]),
        ("a\\ b", ["a b"]),
        ('"" x', ["", "x"]),
        ("$NULL", []),
        ("x$W", ["xtwo", "words"]),
    ],
)
def test_words_are_split_at_blanks_outside_of_quotes(text: str, found: list[str]) -> None:
    assert words.expand_words(text, VALUES) == found


def test_any_text_is_kept_by_quotes_and_any_other_ends_in_words_or_a_refusal() -> None:
    chance = random.Random(7)  # noqa: S311
    for _ in range(3000):
        text = "".join(chance.choices("ab $\\'\"{}:-+?#%/`\t", k=chance.randrange(14)))
        if "'" not in text:
            assert words.expand(f"'{text}'", VALUES) == text
        escaped = "".join(f"\\{char}" for char in text)
        assert words.expand(escaped, VALUES) == text
        for read in (words.expand, words.expand_words, words.expand_body):
            with suppress(InvalidArgument):
                read(text, VALUES)
