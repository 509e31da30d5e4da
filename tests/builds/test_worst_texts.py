"""A megabyte of the worst text for each parser of what strangers send: it is read, or refused, at once.

The reading runs in a process of its own, since a pattern that goes back over its input again and again holds
the interpreter's lock, and no timer ends it. Such a text took from ten seconds to days.
"""

import subprocess
import sys
from collections.abc import Callable

import pytest

from bay import durations
from bay.builds import globs
from bay.builds.dockerfile import Dockerfile
from bay.builds.ignored import Ignored
from bay.builds.planner import Planner
from bay.builds.steps import BuildConfig
from bay.drivers.kubernetes import named_images
from bay.errors import BayError, InvalidArgument
from bay.images import references
from bay.network import domains
from bay.server.compat.sprites.wire import seconds_of

pytestmark = pytest.mark.pure

MOST = (1 << 20) - 200
LINE = 65_000
HANGS_S = 120
"""All of it takes a few seconds."""


def whole(unit: str, most: int = MOST) -> str:
    return unit * (most // len(unit))


DOCKERFILES = [
    f"# syntax=a{whole(' ', LINE)}b\nFROM scratch\n" * 16,
    f"#{whole(' ')}b\nFROM scratch\n",
    *(
        f"FROM scratch\n{begin}{whole(unit, most)}{end}"
        for most in (LINE, MOST)
        for begin, unit, end in (
            ("HEALTHCHECK --interval=", "1", " CMD a"),
            ("HEALTHCHECK --interval=", "1s", " CMD a"),
            ("HEALTHCHECK --interval=", "1.", " CMD a"),
            ("HEALTHCHECK --retries=", "1", " CMD a"),
            ("EXPOSE ", "1", ""),
            ("EXPOSE ", "$a ", ""),
            ("EXPOSE ", "\\a", ""),
            ("ENV a=", "${a:-", ""),
            ("ENV a=", "\\\\", ""),
            ("ENV a=", "''", ""),
            ("ENV ", "a=1 ", ""),
            ("ARG ", "a ", ""),
            ("LABEL ", "a", ""),
            ("RUN ", "<<a ", ""),
            ("RUN ", "1", "<<a\na\n"),
            ("RUN <<a\n", "b\n", "a\n"),
            ("RUN <<-a\n", "\t\n", "a\n"),
            ("RUN a", "\\\n", "b"),
            ("RUN a", "\\ ", "b"),
            ("RUN ", "--mount=a ", ""),
            ("RUN --mount=type=cache,", "a=b,", " a"),
            ("COPY ", "a ", "/b/"),
            ("COPY ", f"{'[a]' * 1300} ", "/b/"),
            ("COPY ", f"{'*a' * 2000} ", "/b/"),
            ("CMD ", "[", ""),
            ("CMD [", '"a",', '"a"]'),
            ("USER ", "a", ""),
            ("STOPSIGNAL ", "A", ""),
            ("WORKDIR ", "/a", ""),
        )
    ),
    f"FROM scratch\nENV a={'x' * 60_000}\n{whole('LABEL a=$a$a', 12_000)}\n",
]
IGNORE_FILES = [
    *("*a" * 100, "**/" * 30 + "b", "**/a/" * 20 + "b", "a**" * 4 + "b", "**a*" * 2 + "b", "a**" * 30 + "b"),
    *(whole(unit) for unit in ("*a", "**/", "[", "[a]", "\\a", "!", "a\n", "a*b\n", "../")),
    whole("**/*a*a*a*b\n", 100),
]
PATHS = ["a" * 4095, "/".join("a" * 2000), "/".join(["a" * 255] * 15)]
PATTERNS = [whole(unit, 4095) for unit in ("*a", "[a]", "[a-z]", "?", "*", "*?", "[", "\\", "[^")]


def read_dockerfile(text: str) -> None:
    file = Dockerfile.read(text)
    file.images_copied()
    file.plan(BuildConfig())


def ignores(text: str) -> None:
    found = Ignored.read(text)
    for path in PATHS:
        found.covers(path)


def plan_copy(pattern: str) -> None:
    Planner(BuildConfig()).copy([pattern], "/x/", text="")
    for path in PATHS:
        globs.matches(pattern, path)


def kubelet(text: str) -> None:
    named_images.trouble("a", "ErrImagePull", text)
    named_images.shown(text)


PARSERS: list[tuple[Callable[[str], object], list[str]]] = [
    (read_dockerfile, DOCKERFILES),
    (ignores, IGNORE_FILES),
    (plan_copy, PATTERNS),
    (references.parse, [whole(unit) for unit in ("a", "a.", "a/", "-", ":", "@", "1.", "a_")]),
    (domains.normal_pattern, [whole(unit) for unit in ("a", "a.", "é", "é.", "xn--", "xn--a.", ".", "ß.")]),
    (domains.lookup_form, [whole(unit) for unit in ("a", "a.", ".", "-")]),
    (durations.parse, [whole(unit) for unit in ("1", "1s", "1d", "1.")]),
    (lambda text: seconds_of(text, "timeout"), [whole(unit) for unit in ("1", "1s", "1m", "1.1", "1ms!")]),
    (kubelet, [whole(unit) for unit in ("?", "a ", "/", "no match ")]),
]


def read_all() -> None:
    """Read each of them."""
    for parser, texts in PARSERS:
        for text in texts:
            try:
                parser(text)
            except (BayError, ValueError):
                pass  # in words, which other tests read
            except Exception as error:
                raise AssertionError(f"{parser} of {text[:40]!r}") from error


def test_no_text_holds_a_parser() -> None:
    ran = subprocess.run([sys.executable, "-W", "ignore", __file__], timeout=HANGS_S, check=False)
    assert ran.returncode == 0


def test_a_line_that_is_too_long_is_named_with_the_way_out() -> None:
    with pytest.raises(InvalidArgument, match=r"line 2: it has more than 65535 bytes, .* break it with a \\"):
        Dockerfile.read(f"FROM scratch\nENV a={whole('b', 65_530)}\n")
    Dockerfile.read(f"FROM scratch\nENV a={whole('b', 65_529)}\n")
    with pytest.raises(InvalidArgument, match="line 2"):
        Dockerfile.read(f"FROM scratch\nENV a={whole('é', 33_000)}\n")


def test_an_ignore_pattern_is_bounded() -> None:
    for text, words in (
        ("a" * 4096, r"line 1: the pattern has more than 4095 characters"),
        ("a\n" * 10_001, r"more than 10000 patterns, the limit; name directories"),
        ("a**" * 5 + "b", r"line 1: .* more than 4 \*\* follow a name"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            Ignored.read(text)


if __name__ == "__main__":
    read_all()
