"""The render process: reads requests with output, and answers each with a screen and its repaint, in turn.

A request is a line of JSON, `{"rows", "cols", "scrollback", "bytes"}`, followed by that many bytes; the
answer is a line `{"screen", "bytes"}`, followed by the repaint. It ends with its input.
"""

import json
import sys
from typing import BinaryIO

from bay.models import to_wire
from bay.terminal.render import render


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer until the input ends."""
    for line in iter(source.readline, b""):
        order = json.loads(line)
        data = source.read(order["bytes"])
        screen, repaint = render(data, order["rows"], order["cols"], order["scrollback"])
        sink.write(json.dumps({"screen": to_wire(screen), "bytes": len(repaint)}).encode() + b"\n" + repaint)
        sink.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
