"""Small charts of one line."""

import pytest

from bay.cli import sparklines

pytestmark = pytest.mark.pure


def test_each_column_has_the_highest_figure_of_its_time() -> None:
    moments = [(0, 1.0), (5, 4.0), (9, 2.0), (10, None), (20, 0.0), (29.9, 3.0), (30, 9.0), (-1, 9.0)]
    assert sparklines.columns(moments, 0, 40, 4) == [4.0, None, 3.0, 9.0]


def test_a_time_without_figures_is_blank_and_nothing_is_the_lowest_block() -> None:
    assert sparklines.line([0.0, None, 4.0, 8.0]) == "▁ ▅█"
    assert sparklines.line([0.0, 0.0]) == "▁▁"
    assert sparklines.line([None, None]) == "  "


def test_a_block_is_full_at_the_limit_and_no_higher() -> None:
    assert sparklines.line([1.0, 2.0, 5.0], top=2.0) == "▅██"
