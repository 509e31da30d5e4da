"""The bounds of answers. An agent pays for each byte, so an answer is short and says where to read on."""

import codecs

OUTPUT_BYTES = 16_000
"""Of a command's output, or a file, unless the call says otherwise."""

MOST_BYTES = 100_000
"""As much as a call may ask for."""

BLOB_BYTES = 4 << 20
"""Of a file or an image that is given whole."""


def whole_text(data: bytes, *, is_end: bool) -> tuple[str, int]:
    """`data` as text, and how many bytes of it that is: a character whose rest is still to come is left."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data, final=is_end)
    return text, len(data) - len(decoder.getstate()[0])
