# pyright: reportUnknownMemberType=false
# (IPython has hardly any types.)
"""Describes figures of matplotlib and tables of pandas as data, for clients that draw them themselves.

A cell asks for it; in other cells the formatters are off. All is bounded before it is built: the first
points, rows and columns are taken of an array, and `truncated` says that there are more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from IPython.core.formatters import BaseFormatter
from traitlets import ObjectName, Unicode

from ship_kernel import charts, values

CHART = "application/vnd.bay.chart+json"
TABLE = "application/vnd.bay.table+json"

_MAX_COLUMNS = 500
_MAX_CELLS = 50_000


def describe_table(frame: Any) -> dict[str, Any] | None:
    """`columns` with their `values`, and how many rows and columns the table has in truth."""
    try:
        rows, columns = frame.shape
        shown_columns = min(columns, _MAX_COLUMNS)
        shown_rows = min(rows, _MAX_CELLS // max(shown_columns, 1))
        room = values.Room(_MAX_CELLS)
        part = frame.iloc[:shown_rows, :shown_columns]
        data = [
            {"name": values.text(part.columns[at]), "values": room.take(part.iloc[:, at])}
            for at in range(shown_columns)
        ]
    except Exception:  # noqa: BLE001 - a table of the user's own class may raise what it likes
        return None
    truncated = room.truncated or (shown_rows, shown_columns) != (rows, columns)
    return {"rows": int(rows), "columns": data, "truncated": truncated}


class ByName(BaseFormatter):
    """Describes objects by the name of their class, so that nothing is imported for it.

    Not by IPython's tables of types: matplotlib_inline takes figures out of those of all formatters.
    """

    _kinds: frozenset[tuple[str, str]]
    _describe: Callable[[Any], dict[str, Any] | None]
    _return_type = dict

    def __call__(self, obj: Any) -> Any:
        """The description, None for other objects."""
        if not self.enabled:
            return None
        classes = {(kind.__module__, kind.__name__) for kind in type(obj).__mro__}
        return self._describe(obj) if classes & self._kinds else super().__call__(obj)


class ChartFormatter(ByName):
    """Gives a description of a matplotlib figure."""

    _kinds = frozenset({("matplotlib.figure", "Figure")})
    format_type = Unicode(CHART)
    print_method = ObjectName("_repr_bay_chart_")
    _describe = staticmethod(charts.describe)


class TableFormatter(ByName):
    """Gives the data of a pandas table."""

    _kinds = frozenset({("pandas.core.frame", "DataFrame"), ("pandas", "DataFrame")})
    format_type = Unicode(TABLE)
    print_method = ObjectName("_repr_bay_table_")
    _describe = staticmethod(describe_table)


class Descriptions:
    """The two formatters, which are made when a cell first asks for them."""

    def __init__(self, formatters: dict[str, BaseFormatter]) -> None:
        self._formatters = formatters
        self._own: list[BaseFormatter] = []

    def enable(self, wanted: bool) -> None:
        """Describe in the cells from now on, or not."""
        if wanted and not self._own:
            self._own = [ChartFormatter(), TableFormatter()]
            self._formatters.update({formatter.format_type: formatter for formatter in self._own})
        for formatter in self._own:
            formatter.enabled = wanted
