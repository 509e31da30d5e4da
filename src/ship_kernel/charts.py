"""Describes a figure of matplotlib: each pair of axes as a chart of one kind, with labels, ticks, points."""

from __future__ import annotations

import re
import sys
from typing import Any

from ship_kernel.values import Room, json_value, text

_MAX_POINTS = 20_000  # coordinates of all charts of a figure
_MAX_CHARTS = 50
_MAX_ELEMENTS = 500
_MAX_TICKS = 200
_UNIT = re.compile(r"[(\[]([^()\[\]]{1,50})[)\]]\s*$")
_BOX = [5, 2, 2, 2, 2, 2]  # points of the lines of a box: itself, two whiskers, two caps, the median


def describe(figure: Any) -> dict[str, Any] | None:
    """One chart, or a `superchart` of several; None for a figure that cannot be described."""
    try:
        room = Room(_MAX_POINTS)
        axes = [each for each in figure.axes if each.get_visible()]
        found = [_chart(each, room) for each in axes[:_MAX_CHARTS]]
        title = "" if figure._suptitle is None else text(figure._suptitle.get_text())
    except Exception:  # noqa: BLE001 - artists of the user's own may raise what they like
        return None
    truncated = room.truncated or len(axes) > _MAX_CHARTS
    if len(found) == 1:
        return {**found[0], "title": found[0]["title"] or title, "truncated": truncated}
    return {"type": "superchart", "title": title, "elements": found, "truncated": truncated}


def _chart(axes: Any, room: Room) -> dict[str, Any]:
    kind, elements = _elements(axes, room)
    chart: dict[str, Any] = {"type": kind, "title": text(axes.get_title()), "elements": elements}
    if kind != "pie":
        chart.update(_labels(axes))
    if kind in ("line", "scatter"):
        chart.update(_scale(axes, "x"), **_scale(axes, "y"))
    return chart


def _elements(axes: Any, room: Room) -> tuple[str, list[dict[str, Any]]]:
    """The kind of the chart and its elements."""
    wedges = [patch for patch in axes.patches if type(patch).__name__ == "Wedge"]
    if wedges:
        return "pie", _slices(axes, wedges[:_MAX_ELEMENTS])
    bars = [each for each in axes.containers if type(each).__name__ == "BarContainer"]
    if bars:
        return "bar", _bars(axes, bars, room)
    boxes = _boxes(axes, room)
    if boxes:
        return "box_and_whisker", boxes
    if axes.lines:
        return "line", [_points(line.get_label(), *_line(line), room) for line in axes.lines[:_MAX_ELEMENTS]]
    scattered = [each for each in axes.collections if type(each).__name__ == "PathCollection"]
    if scattered:
        return "scatter", [_scatter(axes, each, room) for each in scattered[:_MAX_ELEMENTS]]
    return "unknown", []


def _line(line: Any) -> tuple[Any, Any]:
    return line.get_xdata(orig=True), line.get_ydata(orig=True)


def _points(label: str, x: Any, y: Any, room: Room) -> dict[str, Any]:
    return {"label": text(label), "points": room.take_pairs(x, y)}


def _scatter(axes: Any, found: Any, room: Room) -> dict[str, Any]:
    offsets = found.get_offsets()
    x, y = offsets[:, 0], offsets[:, 1]
    return _points(found.get_label(), _as_given(axes.xaxis, x), _as_given(axes.yaxis, y), room)


def _as_given(axis: Any, numbers: Any) -> Any:
    """Places on an axis of dates as times; others as they are."""
    if _kind_of(axis) != "datetime":
        return numbers
    dates: Any = sys.modules["matplotlib.dates"]  # which gave the axis its converter
    return dates.num2date(numbers[:_MAX_POINTS])


def _slices(axes: Any, wedges: list[Any]) -> list[dict[str, Any]]:
    return [
        {
            "label": text(wedge.get_label()),
            "angle": abs(json_value(wedge.theta2) - json_value(wedge.theta1)),
            "radius": json_value(wedge.r),
        }
        for wedge in wedges
    ]


def _bars(axes: Any, containers: list[Any], room: Room) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for container in containers[:_MAX_ELEMENTS]:
        upright = container.orientation != "horizontal"
        labels = _tick_labels(axes.xaxis if upright else axes.yaxis)
        for patch in container.patches[: _MAX_POINTS - len(found)]:
            start, size = (
                (patch.get_x(), patch.get_width()) if upright else (patch.get_y(), patch.get_height())
            )
            middle = float(start) + float(size) / 2
            value = json_value(patch.get_height() if upright else patch.get_width())
            label = labels.get(round(middle, 6)) or f"{middle:g}"
            found.append({"label": label, "group": text(container.get_label()), "value": value})
    room.truncated = room.truncated or sum(map(len, containers)) > len(found)
    return found


def _boxes(axes: Any, room: Room) -> list[dict[str, Any]]:
    """The boxes of `boxplot`, known by the order in which it draws their lines; none if there are others."""
    lines = list(axes.lines[: 7 * _MAX_ELEMENTS])
    shape = _BOX if lines and len(lines[0].get_xdata()) == 5 else _BOX[1:]
    boxed = shape is _BOX or any(type(patch).__name__ == "PathPatch" for patch in axes.patches)
    per = len(shape) + 1  # and the outliers
    if not boxed or not lines or len(lines) % per:
        return []
    found: list[dict[str, Any]] = []
    for at in range(0, len(lines), per):
        group = [_line(line) for line in lines[at : at + per]]
        if [len(x) for x, _ in group[:-1]] != shape:
            return []
        found.append(_box(axes, group[-6:], room))
    return found


def _box(axes: Any, group: list[tuple[Any, Any]], room: Room) -> dict[str, Any]:
    upright = group[0][0][0] == group[0][0][1]
    along = 1 if upright else 0
    low, high, median, outliers = (group[at][along] for at in (0, 1, 4, 5))
    place = round(float(group[0][1 - along][0]), 6)
    label = _tick_labels(axes.xaxis if upright else axes.yaxis).get(place) or f"{place:g}"
    return {
        "label": label,
        "min": json_value(low[1]),
        "first_quartile": json_value(low[0]),
        "median": json_value(median[0]),
        "third_quartile": json_value(high[0]),
        "max": json_value(high[1]),
        "outliers": room.take(outliers),
    }


def _tick_labels(axis: Any) -> dict[float, str]:
    """The label at each place of an axis."""
    places, labels = axis.get_ticklocs()[:_MAX_TICKS], axis.get_ticklabels()[:_MAX_TICKS]
    pairs = zip(places, labels, strict=False)
    return {round(float(place), 6): text(label.get_text()) for place, label in pairs}


def _labels(axes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, label in (("x", axes.get_xlabel()), ("y", axes.get_ylabel())):
        unit = _UNIT.search(text(label))
        found |= {f"{name}_label": text(label), f"{name}_unit": unit and unit[1]}
    return found


def _scale(axes: Any, name: str) -> dict[str, Any]:
    axis = getattr(axes, f"{name}axis")
    places = axis.get_ticklocs()[:_MAX_TICKS]
    return {
        f"{name}_ticks": [json_value(place) for place in _as_given(axis, places)],
        f"{name}_tick_labels": [text(each.get_text()) for each in axis.get_ticklabels()[:_MAX_TICKS]],
        f"{name}_scale": _kind_of(axis) or text(axis.get_scale()),
    }


def _kind_of(axis: Any) -> str | None:
    """`datetime` or `categorical`, as the values of an axis are; None for numbers."""
    converter = axis.get_converter() if hasattr(axis, "get_converter") else getattr(axis, "converter", None)
    name = type(converter).__name__
    if name == "StrCategoryConverter":
        return "categorical"
    return "datetime" if "Date" in name else None
