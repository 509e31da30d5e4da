"""Rows as records: what the modules of queries have in common."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import Column, Row, Table

from bay.store.records import Page

T = TypeVar("T")


@cache
def columns_of(table: Table) -> tuple[Column[Any], ...]:
    """The columns of a record: all but `seq`, the place in a list."""
    return tuple(column for column in table.c if column.name != "seq")


def values_of(table: Table, record: object) -> dict[str, Any]:
    """The row of a record that has an attribute for each of those columns."""
    return {column.name: getattr(record, column.name) for column in columns_of(table)}


def without_seq(row: Row[Any]) -> dict[str, Any]:
    """The values of those columns, for the class of the record."""
    return {name: value for name, value in row._mapping.items() if name != "seq"}


def page_of(rows: Sequence[Row[Any]], limit: int, make: Callable[[Row[Any]], T]) -> Page[T]:
    """The first `limit` of `rows` as records; one row more shows that the list goes on."""
    items = tuple(map(make, rows[:limit]))
    return Page(items=items, next_cursor=rows[limit - 1].seq if len(rows) > limit else None)
