"""Cuts a program's output into text, controls and sequences: ECMA-48 section 5, the bad ones as xterm."""

import re
from collections.abc import Iterator

_CSI = r"(?:\x1b\[|\x9b)"
_OSC = r"(?:\x1b\]|\x9d)"
_STRING = r"(?:\x1b[PX^_]|[\x90\x98\x9e\x9f])"
_END = r"(?:\x9c|\x1b\\|[\x18\x1a]|(?=\x1b[^\\]))"

_TOKEN = re.compile(
    r"(?P<text>[^\x00-\x1f\x7f-\x9f]++)"
    rf"|{_CSI}(?P<csi>[\x20-\x3f]*+[\x40-\x7e])"
    rf"|{_OSC}(?P<osc>[^\x07\x18\x1a\x1b\x9c]*+)(?:\x07|{_END})"
    rf"|(?P<string>{_STRING}[^\x18\x1a\x1b\x9c]*+{_END})"
    rf"|(?P<rest>(?:{_CSI}[\x20-\x3f]*+|{_OSC}[^\x07\x18\x1a\x1b\x9c]*+\x1b?|{_STRING}[^\x18\x1a\x1b\x9c]*+\x1b?|\x1b[\x20-\x2f]*+)\Z)"
    rf"|(?P<broken>{_CSI}[\x20-\x3f]*+)"
    r"|\x1b(?P<escape>[\x20-\x2f]*+[\x30-\x7e])"
    r"|(?P<control>[\x00-\x1f\x7f-\x9f])"
)
_LONGEST_REST = 4096


def tokens(text: str) -> Iterator[tuple[str, str]]:
    """Kind and content of each piece: text, csi, osc, escape or control; `rest` is cut off by the end."""
    for match in _TOKEN.finditer(text):
        kind = str(match.lastgroup)
        yield kind, match[kind]


def carried(rest: str) -> str:
    """An incomplete sequence in few characters: a long one's beginning, which keeps its kind."""
    return rest if len(rest) <= _LONGEST_REST else rest[: 2 if rest[0] == "\x1b" else 1]
