"""Parses names of signals as the API takes them: `INT`, `SIGINT` or 2."""

import signal
from typing import Annotated

from pydantic import BeforeValidator, Field


def _name_of(value: object) -> object:
    """`INT` for every way to say it. Raises ValueError for what is no signal of this platform."""
    try:
        if isinstance(value, str):
            return signal.Signals[f"SIG{value.removeprefix('SIG')}"].name.removeprefix("SIG")
        if isinstance(value, int) and not isinstance(value, bool):
            return signal.Signals(value).name.removeprefix("SIG")
    except (KeyError, ValueError) as error:
        raise ValueError("is not a signal; give a name such as INT, or its number") from error
    return value


SignalName = Annotated[
    str,
    BeforeValidator(_name_of, json_schema_input_type=str | int),
    Field(description="`INT`, `SIGINT` or 2"),
]
