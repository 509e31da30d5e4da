"""Checks a client's frames on an attachment before the sandbox gets them."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from bay.errors import BadRequest
from bay.server.web.bodies import SignalName
from ship_protocol import END_OF_STDIN, STDIN, TERMINAL_EXTENT

Rows = Annotated[int, Field(ge=1, le=TERMINAL_EXTENT)]

MAX_CONTROL = 1024


class Resize(BaseModel):
    """The client's window has another size now."""

    type: Literal["resize"]
    rows: Rows
    cols: Rows


class Signal(BaseModel):
    """To the process, or to what runs in the foreground of its terminal."""

    type: Literal["signal"]
    signal: SignalName


_control: TypeAdapter[Resize | Signal] = TypeAdapter(Annotated[Resize | Signal, Field(discriminator="type")])


def check_input(frame: bytes) -> None:
    """Raises BadRequest unless `frame` is stdin, or its end."""
    if frame[:1] != STDIN and frame != END_OF_STDIN:
        raise BadRequest("a binary frame must be byte 0 and data for stdin, or byte 4 alone to end stdin")


def parse_control(text: str) -> Resize | Signal:
    """A text frame. Raises BadRequest when it is neither a resize nor a signal."""
    if len(text) > MAX_CONTROL:
        raise BadRequest(
            f"a text frame may have at most {MAX_CONTROL} characters; send stdin in binary frames"
        )
    try:
        return _control.validate_json(text)
    except ValidationError as error:
        raise BadRequest(
            "a text frame must be JSON of type resize or signal; send stdin in binary frames"
        ) from error
