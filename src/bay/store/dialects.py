"""The differences between the two databases, each behind one expression that the queries use for both.

With these the store means the same on SQLite and on PostgreSQL: text is ordered and compared by its bytes,
whole numbers have 64 bits, no length of a text is enforced, and what a text may not contain on PostgreSQL is
replaced on its way in. `bay.store.sqlite` and `bay.store.postgres` alone know of further differences.
"""

import re
from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import (
    JSON,
    BigInteger,
    ClauseElement,
    Column,
    ColumnElement,
    Dialect,
    Index,
    Integer,
    String,
    Text,
    TypeDecorator,
    column,
    func,
    literal,
    type_coerce,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite.dml import OnConflictDoNothing, OnConflictDoUpdate
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import TableValuedAlias
from sqlalchemy.types import TypeEngine

insert = sqlite.insert
"""An INSERT that may have an ON CONFLICT, in either database. The other dialect's is not loaded for it: that
takes as long as a tenth of Bay's start.
"""

_REPLACEMENT = "\ufffd"
_NOT_IN_JSON = re.compile("[\0\ud800-\udfff]")


class PostgresText(TypeDecorator[str]):
    """Text of any length, compared by its bytes. It has no NUL, in whose place there is U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value.replace("\0", _REPLACEMENT) if value is not None else None


class PostgresJson(TypeDecorator[Any]):
    """JSON without NUL and without halves of surrogate pairs, which PostgreSQL cannot read from it."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return _readable(value)

    def coerce_compared_value(self, op: Any, value: Any) -> TypeEngine[Any]:
        return self.impl_instance.coerce_compared_value(op, value)


def _readable(value: Any) -> Any:
    if isinstance(value, str):
        return _NOT_IN_JSON.sub(_REPLACEMENT, value)
    if isinstance(value, dict):
        members = cast("dict[Any, Any]", value)
        return {_readable(name): _readable(member) for name, member in members.items()}
    if isinstance(value, list | tuple):
        return [_readable(item) for item in cast("Sequence[Any]", value)]
    return value


def text_type(length: int | None = None) -> TypeEngine[str]:
    """Text. `length` is what SQLite's declaration says; neither database enforces it."""
    declared = Text() if length is None else String(length)
    return declared.with_variant(PostgresText(collation="C"), "postgresql")


def json_type(*, none_as_null: bool = False) -> TypeEngine[Any]:
    """JSON, kept as it was written. None is `null`, or with `none_as_null` the NULL of SQL."""
    return JSON(none_as_null=none_as_null).with_variant(PostgresJson(none_as_null=none_as_null), "postgresql")


def integer_type() -> TypeEngine[int]:
    """A whole number of 64 bits, which SQLite declares as INTEGER."""
    return BigInteger().with_variant(Integer(), "sqlite")


def partial_index(name: str, *columns: Column[Any], where: ClauseElement, unique: bool = False) -> Index:
    """An index of the rows for which `where` holds."""
    return Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


def whole(number: int) -> ColumnElement[int]:
    """A number of 64 bits, beside a count: PostgreSQL would have one of 32."""
    return literal(number, integer_type())


def whole_sum(what: ColumnElement[Any]) -> ColumnElement[int]:
    """The sum of whole numbers as one, which PostgreSQL would give as a decimal; null without any."""
    return sql_cast(func.sum(what), integer_type())


def member_text(of: ColumnElement[Any], name: str) -> ColumnElement[str]:
    """The text that a JSON object has under `name`; null without one."""
    return type_coerce(of[name].as_string(), text_type())


def elements(array: ColumnElement[Any], name: str) -> TableValuedAlias:
    """The elements of a JSON array as rows of a table `name`, in its column `value`."""
    return ArrayElements(array).table_valued(column("value", JSON), name=name)


class Larger(FunctionElement[int]):
    """The larger one of two numbers, neither of which is null."""

    type = BigInteger()
    inherit_cache = True


class ByteLength(FunctionElement[int]):
    """The number of bytes of a text, or of JSON as it is kept."""

    type = BigInteger()
    inherit_cache = True


class NextSeq(FunctionElement[int]):
    """A number for the `seq` of a row, higher than that of every other: of `table.c.seq`."""

    type = BigInteger()
    inherit_cache = True


class HasElements(FunctionElement[bool]):
    """Whether a JSON array that Bay wrote has an element. The condition of an index may say so too."""

    inherit_cache = True  # and no type: SQLite's Boolean would be compared with 1, which is not in its index


class ArrayElements(FunctionElement[Any]):
    """The elements of a JSON array as rows; by `elements`."""

    inherit_cache = True


class JsonRows(FunctionElement[Any]):
    """An aggregate: the JSON array of the arguments of each row, all together in one that may be empty."""

    type = JSON()
    inherit_cache = True


_FUNCTIONS: dict[type[FunctionElement[Any]], dict[str, str]] = {
    Larger: {"sqlite": "max({})", "postgresql": "greatest({})"},
    ByteLength: {"sqlite": "length(CAST({} AS BLOB))", "postgresql": "octet_length(CAST({} AS TEXT))"},
    HasElements: {"sqlite": "{} != '[]'", "postgresql": "CAST({} AS TEXT) != '[]'"},
    ArrayElements: {"sqlite": "json_each({})", "postgresql": "json_array_elements({})"},
    JsonRows: {
        "sqlite": "json_group_array(json_array({}))",
        "postgresql": "coalesce(json_agg(json_build_array({})), CAST('[]' AS JSON))",
    },
}
"""How each of them is written."""


def _write_as(function: type[FunctionElement[Any]], dialect: str, words: str) -> None:
    # Of the options only this one is for the arguments: the condition of an index names no table.
    @compiles(function, dialect)
    def _(element: FunctionElement[Any], compiler: Any, include_table: bool = True, **_: Any) -> str:
        return words.format(compiler.process(element.clauses, include_table=include_table))


for _function, _by_dialect in _FUNCTIONS.items():
    for _dialect, _words in _by_dialect.items():
        _write_as(_function, _dialect, _words)


@compiles(NextSeq, "sqlite")
def _(element: NextSeq, compiler: Any, **_: Any) -> str:
    seq = compiler.process(element.clauses, include_table=False)
    return f"(SELECT max({seq}) + 1 FROM {_table_of(element)})"  # noqa: S608 — names of ours


@compiles(NextSeq, "postgresql")
def _(element: NextSeq, compiler: Any, **_: Any) -> str:
    seq = compiler.process(element.clauses, include_table=False)
    return f"nextval(pg_get_serial_sequence('{_table_of(element)}', '{seq}'))"


def _table_of(element: NextSeq) -> str:
    (seq,) = element.clauses
    assert isinstance(seq, Column)  # noqa: S101 — of a table
    return seq.table.name


@compiles(OnConflictDoNothing, "postgresql")
def _(element: Any, compiler: Any, **options: Any) -> str:
    element.constraint_target = None  # the one attribute that PostgreSQL's has besides
    return compiler.visit_on_conflict_do_nothing(element, **options)


@compiles(OnConflictDoUpdate, "postgresql")
def _(element: Any, compiler: Any, **options: Any) -> str:
    element.constraint_target = None
    return compiler.visit_on_conflict_do_update(element, **options)
