"""`Brief` is the base of models that may carry megabytes."""

from dataclasses import fields
from reprlib import Repr
from typing import Any, cast

_BRIEF = Repr()
_BRIEF.maxstring, _BRIEF.maxother = 200, 400
_BRIEF.maxtuple = _BRIEF.maxlist = _BRIEF.maxdict = 20


class Brief:
    """A model that may carry megabytes of output or images; its `repr` shows their ends alone."""

    __slots__ = ()

    def __repr__(self) -> str:
        values = ((f.name, getattr(self, f.name)) for f in fields(cast("Any", self)))
        return f"{type(self).__name__}({', '.join(f'{name}={_BRIEF.repr(value)}' for name, value in values)})"
