"""The bounds of answers. An agent pays for each byte, so an answer is short and says where to read on."""

import codecs
from collections.abc import Iterable

OUTPUT_BYTES = 16_000
"""Of a command's output, or a file, unless the call says otherwise; and of every list."""

MOST_BYTES = 100_000
"""As much as a call may ask for."""

BLOB_BYTES = 4 << 20
"""Of a file or an image that is given whole."""

_HIDDEN = {code: "\N{REPLACEMENT CHARACTER}" for code in range(32) if chr(code) not in "\t\n\r\x1b"}


def whole_text(data: bytes, *, is_end: bool) -> tuple[str, int]:
    """`data` as text, and how many bytes of it that is: a character whose rest is still to come is left."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data, final=is_end)
    return text, len(data) - len(decoder.getstate()[0])


def shown(text: str) -> str:
    """The text without control characters that no reader sees, each of which JSON writes as six bytes."""
    return text.translate(_HIDDEN)


def tail_of(text: str, most: int) -> tuple[str, int]:
    """The end of a text, `most` bytes of it, and how many bytes were before that."""
    data = text.encode()
    return data[-most:].decode("utf-8", "ignore"), max(0, len(data) - most)


def first_lines(lines: Iterable[str]) -> tuple[list[str], bool]:
    """The lines that have room in an answer, and whether there are more."""
    kept: list[str] = []
    left = OUTPUT_BYTES
    for line in lines:
        left -= len(line.encode()) + 1
        if left < 0:
            return kept, True
        kept.append(line)
    return kept, False
