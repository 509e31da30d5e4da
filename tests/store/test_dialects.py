"""The expressions that have other words in each database mean the same in both."""

from collections.abc import Generator, Mapping
from pathlib import Path

import postgres_server
import pytest
from sqlalchemy import (
    Column,
    Connection,
    MetaData,
    NullPool,
    Table,
    create_engine,
    inspect,
    literal,
    select,
    update,
)

from bay.store.dialects import (
    ByteLength,
    HasElements,
    JsonRows,
    Larger,
    NextSeq,
    elements,
    insert,
    integer_type,
    json_type,
    member_text,
    partial_index,
    text_type,
    whole_sum,
)
from bay.store.schema import metadata

_own = MetaData()
THINGS = Table(
    "things",
    _own,
    Column("seq", integer_type(), primary_key=True, autoincrement=True),
    Column("name", text_type(4), unique=True),
    Column("number", integer_type()),
    Column("labels", json_type()),
    Column("places", json_type(), nullable=False, server_default="[]"),
    sqlite_autoincrement=True,
)
_T = THINGS.c
partial_index("ix_things_places", _T.seq, where=HasElements(_T.places))


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Connection]:
    """A connection to a database that has the table of things."""
    if request.param == "sqlite":
        yield from connected(f"sqlite:///{tmp_path}/things.db")
    elif postgres_server.binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    else:
        with postgres_server.shared().database() as url:
            yield from connected(url.replace("postgresql:", "postgresql+psycopg:", 1))


def connected(url: str) -> Generator[Connection]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        _own.create_all(connection, checkfirst=False)
        yield connection
    engine.dispose()


def add(db: Connection, *rows: Mapping[str, object]) -> None:
    for row in rows:
        db.execute(THINGS.insert().values(row))


def test_names_are_ordered_by_their_bytes_and_nulls_as_asked(db: Connection) -> None:
    add(db, *({"name": name} for name in ("b", "é", "B", "a", None)))
    assert db.scalars(select(_T.name).order_by(_T.name.nulls_first())).all() == [None, "B", "a", "b", "é"]


def test_no_length_is_enforced_and_numbers_have_64_bits(db: Connection) -> None:
    add(db, {"name": "longer than four", "number": 2**62})
    add(db, {"name": "other", "number": 2**61})
    assert db.scalars(select(_T.number).where(_T.name == "longer than four", _T.number > 2**61)).all() == [
        2**62
    ]


def test_a_nul_is_no_error_anywhere(db: Connection) -> None:
    add(db, {"name": "a\0b", "labels": {"x\0": ["y\0", "\ud800"], "n": 1, "none": None}})
    (name, labels) = db.execute(select(_T.name, _T.labels).where(_T.name == "a\0b")).one()
    assert name in ("a\0b", "a\ufffdb")
    assert [key for key in labels if key in ("x\0", "x\ufffd")] != []
    assert (labels["n"], labels["none"]) == (1, None)
    assert db.scalars(select(_T.seq).where(member_text(_T.labels, "x") == "y\0")).all() == []


def test_a_prefix_is_found_in_any_case(db: Connection) -> None:
    add(db, {"name": "Box-1"}, {"name": "boy"}, {"name": "b%x"})
    named = select(_T.name).where(_T.name.istartswith("bO", autoescape=True)).order_by(_T.seq)
    assert db.scalars(named).all() == ["Box-1", "boy"]
    assert db.scalars(select(_T.name).where(_T.name.istartswith("B%", autoescape=True))).all() == ["b%x"]


def test_a_row_that_is_there_is_kept_or_updated(db: Connection) -> None:
    kept = insert(THINGS).values(name="a", number=1).on_conflict_do_nothing(index_elements=["name"])
    counts = [db.execute(kept, execution_options={"preserve_rowcount": True}).rowcount for _ in range(2)]
    assert counts == [1, 0]
    changed = insert(THINGS).values(name="a", number=2)
    db.execute(changed.on_conflict_do_update(index_elements=["name"], set_={"number": 2}))
    db.execute(insert(THINGS).values(name="a", number=3).on_conflict_do_nothing())
    assert db.execute(select(_T.name, _T.number)).all() == [("a", 2)]


def test_the_larger_number_and_whole_sums_are_whole_numbers(db: Connection) -> None:
    add(db, {"number": 3}, {"number": 5})
    found = db.execute(select(whole_sum(_T.number), whole_sum(Larger(_T.number, literal(4, integer_type())))))
    sums = found.one()
    assert tuple(sums) == (8, 9)
    assert [type(one) for one in sums] == [int, int]
    assert db.scalar(select(whole_sum(_T.number)).where(_T.number > 9)) is None


def test_lengths_are_of_bytes(db: Connection) -> None:
    add(db, {"name": "éa", "labels": {"a": "b"}}, {"labels": {}})
    lengths = select(ByteLength(_T.name), ByteLength(_T.labels)).order_by(_T.seq)
    assert db.execute(lengths).all() == [(3, len('{"a": "b"}')), (None, 2)]


def test_a_row_that_moves_to_the_end_is_followed_by_new_ones(db: Connection) -> None:
    add(db, {"name": "a"}, {"name": "b"})
    db.execute(update(THINGS).where(_T.name == "a").values(seq=NextSeq(_T.seq)))
    add(db, {"name": "c"})
    assert db.scalars(select(_T.name).order_by(_T.seq)).all() == ["b", "a", "c"]


def test_arrays_are_looked_through_by_their_elements(db: Connection) -> None:
    add(db, {"name": "none"}, {"name": "empty", "places": []})
    add(db, {"name": "two", "places": [{"cargo": "ws-1"}, {"cargo": "ws-2", "path": "/x"}]})
    place = elements(_T.places, "place")
    cargo = member_text(place.c.value, "cargo")
    found = select(_T.name, cargo).join(place, literal(True)).where(HasElements(_T.places)).order_by(cargo)
    assert db.execute(found).all() == [("two", "ws-1"), ("two", "ws-2")]
    having = select(literal(1)).select_from(place).where(cargo == "ws-2").correlate_except(place).exists()
    assert db.scalars(select(_T.name).where(HasElements(_T.places), having)).all() == ["two"]


def test_rows_are_gathered_into_one_array(db: Connection) -> None:
    gathered = select(JsonRows(_T.seq, _T.name + ":" + _T.name))
    assert db.scalar(gathered) == []
    add(db, {"name": "a"}, {"name": "b"})
    assert sorted(db.scalar(gathered) or []) == [[1, "a:a"], [2, "b:b"]]


def test_the_condition_of_an_index_is_one_that_a_query_may_have(db: Connection) -> None:
    (index,) = inspect(db).get_indexes("things")[:1]
    assert index["name"] == "ix_things_places"
    if db.dialect.name == "sqlite":
        query = select(_T.seq).where(HasElements(_T.places))
        plan = db.exec_driver_sql(f"EXPLAIN QUERY PLAN {query.compile(db)}").all()
        assert "ix_things_places" in str(plan)


def test_every_column_is_of_a_type_that_means_the_same_in_both() -> None:
    known = {"BIGINT", 'TEXT COLLATE "C"', "JSON", "BOOLEAN", "FLOAT", "BYTEA", "TIMESTAMP WITH TIME ZONE"}
    engine = create_engine("postgresql+psycopg://", poolclass=NullPool)
    declared = {
        f"{table.name}.{column.name}": column.type.compile(engine.dialect)
        for table in metadata.sorted_tables
        for column in table.c
    }
    engine.dispose()
    assert {name: kind for name, kind in declared.items() if kind not in known} == {}


def test_every_partial_index_is_one_in_both() -> None:
    indexes = [index for table in metadata.sorted_tables for index in table.indexes]
    conditions = [
        [index.dialect_options[name]["where"] for name in ("sqlite", "postgresql")] for index in indexes
    ]
    assert any(sqlite is not None for sqlite, _ in conditions)
    assert all(sqlite is postgresql for sqlite, postgresql in conditions)
