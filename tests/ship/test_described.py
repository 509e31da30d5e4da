"""Descriptions of figures and tables, by the matplotlib and the pandas of this host."""

import json
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.host

SOURCES = Path(__file__).parents[2] / "src"
PREPARE = f"""
import sys as system
system.path += [{str(SOURCES)!r}, {sysconfig.get_path("purelib")!r}]
import datetime, json, matplotlib
matplotlib.use("agg")
import matplotlib.pyplot as plt, numpy as np, pandas as pd
from ship_kernel.charts import describe
from ship_kernel.described import describe_table
found = {{}}
def chart(name, draw):
    figure, axes = plt.subplots()
    draw(axes)
    found[name] = describe(figure)
"""
CHARTS = """
def line(axes):
    axes.plot([1, 2, 3], [4, float("nan"), 6], label="one")
    axes.set(xlabel="Time (s)", ylabel="Way", title="Far")
chart("line", line)
chart("scatter", lambda axes: axes.scatter([1, 2], [3, 4], label="dots"))
chart("bar", lambda axes: axes.bar(["a", "b"], [3, 4], label="group"))
chart("lying", lambda axes: axes.barh(["a", "b"], [3, 4], label="group"))
chart("pie", lambda axes: axes.pie([1, 3], labels=["x", "y"]))
chart("boxes", lambda axes: axes.boxplot([[1, 2, 3, 4, 50], [2, 3, 4]]))
chart("filled", lambda axes: axes.boxplot([[1, 2, 3, 4, 50]], patch_artist=True, vert=False))
chart("dates", lambda axes: axes.plot([datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)], [1, 2]))
chart("words", lambda axes: axes.plot(["u", "v"], [1, 2]))
chart("image", lambda axes: axes.imshow([[1, 2]]))
chart("long", lambda axes: axes.plot(np.arange(10**6)))
figure, axes = plt.subplots(1, 2)
figure.suptitle("Both")
axes[0].plot([1], [2])
axes[1].bar(["a"], [1])
found["both"] = describe(figure)
print(json.dumps(found, allow_nan=False))
"""
TABLES = """
times = pd.to_datetime(["2024-01-01", None])
found["small"] = describe_table(pd.DataFrame(
    {"a": [1, 2], "b": ["x", None], "t": times, "f": [1.5, float("inf")], "n": pd.array([1, None], dtype="Int64")}
))
found["long"] = describe_table(pd.DataFrame(np.zeros((10**6, 2))))
found["wide"] = describe_table(pd.DataFrame(np.zeros((2, 1000))))
found["wordy"] = describe_table(pd.DataFrame({"a": ["x" * 2000] * 10_000}))
print(json.dumps(found, allow_nan=False))
"""


def described(code: str) -> dict[str, Any]:
    command = ["/usr/bin/python3", "-c", PREPARE + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def charts() -> dict[str, Any]:
    return described(CHARTS)


def test_lines_and_dots_have_their_points_labels_and_ticks(charts: dict[str, Any]) -> None:
    line = charts["line"]
    assert (line["type"], line["title"], line["truncated"]) == ("line", "Far", False)
    assert line["elements"] == [{"label": "one", "points": [[1, 4.0], [2, None], [3, 6.0]]}]
    assert (line["x_label"], line["x_unit"], line["y_label"], line["y_unit"]) == (
        "Time (s)",
        "s",
        "Way",
        None,
    )
    assert (line["x_scale"], len(line["x_ticks"])) == ("linear", len(line["x_tick_labels"]))
    assert charts["scatter"]["elements"] == [{"label": "dots", "points": [[1.0, 3.0], [2.0, 4.0]]}]
    assert (charts["dates"]["x_scale"], charts["words"]["x_scale"]) == ("datetime", "categorical")
    assert charts["dates"]["elements"][0]["points"][0] == ["2024-01-01", 1]
    assert charts["words"]["elements"][0]["points"] == [["u", 1], ["v", 2]]


def test_bars_slices_and_boxes_have_their_values(charts: dict[str, Any]) -> None:
    bars = [{"label": "a", "group": "group", "value": 3}, {"label": "b", "group": "group", "value": 4}]
    assert charts["bar"]["elements"] == charts["lying"]["elements"] == bars
    assert [(each["label"], each["angle"]) for each in charts["pie"]["elements"]] == [
        ("x", 90.0),
        ("y", 270.0),
    ]
    box = {"label": "1", "min": 1.0, "first_quartile": 2.0, "median": 3.0, "third_quartile": 4.0, "max": 4.0}
    assert charts["boxes"]["type"] == charts["filled"]["type"] == "box_and_whisker"
    assert charts["boxes"]["elements"][0] == charts["filled"]["elements"][0] == {**box, "outliers": [50]}


def test_several_axes_are_charts_of_one(charts: dict[str, Any]) -> None:
    both = charts["both"]
    assert (both["type"], both["title"]) == ("superchart", "Both")
    assert [chart["type"] for chart in both["elements"]] == ["line", "bar"]
    assert (charts["image"]["type"], charts["image"]["elements"]) == ("unknown", [])


def test_a_chart_with_too_many_points_has_the_first_and_says_so(charts: dict[str, Any]) -> None:
    assert charts["long"]["truncated"]
    assert charts["long"]["elements"][0]["points"][-1] == [9999.0, 9999]


def test_tables_have_their_values_as_json_has_them_and_no_more_than_there_is_room() -> None:
    tables = described(TABLES)
    values = {column["name"]: column["values"] for column in tables["small"]["columns"]}
    assert values == {
        "a": [1, 2], "b": ["x", None], "t": ["2024-01-01T00:00:00", None], "f": [1.5, None], "n": [1, None],
    }  # fmt: skip
    assert (tables["small"]["rows"], tables["small"]["truncated"]) == (2, False)
    assert (tables["long"]["rows"], tables["long"]["truncated"]) == (10**6, True)
    assert sum(len(column["values"]) for column in tables["long"]["columns"]) == 50_000
    assert (len(tables["wide"]["columns"]), tables["wide"]["truncated"]) == (500, True)
    assert tables["wordy"]["truncated"]
    assert len(json.dumps(tables["wordy"])) < 4 << 20
