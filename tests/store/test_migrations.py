"""Migrations on both databases. Those up to 0022 are SQLite's alone: PostgreSQL began with their sum."""

import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import postgres_server
import pytest
from sqlalchemy import Connection, NullPool, create_engine, event, inspect, text

from bay.store import versions
from bay.store.sqlite import _begin_immediate, _prepare
from bay.store.versions import MIGRATIONS, bring_up_to_date, newest_version

FIRST = Path(__file__).with_name("releases") / "postgresql-0022.sql"
NEXT = "9001"
MADE_UP = """
import sqlalchemy as sa
from alembic import op

from bay.store.dialects import integer_type, json_type, text_type

revision = "{next}"
down_revision = "{newest}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("cargos", sa.Column("color", text_type(16), nullable=False, server_default="blue"))
    alive = sa.text("deleted_at IS NULL")
    op.create_index("ix_cargos_color", "cargos", ["color"], sqlite_where=alive, postgresql_where=alive)
    op.execute("UPDATE cargos SET color = 'red' WHERE backend = 'btrfs'")
    with op.batch_alter_table("webhooks") as webhooks:
        webhooks.alter_column("last_error", new_column_name="error", existing_type=sa.Text())
    op.create_table(
        "pets",
        sa.Column("seq", integer_type(), autoincrement=True, nullable=False),
        sa.Column("name", text_type(63), nullable=False),
        sa.Column("toys", json_type(), nullable=False, server_default="[]"),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_pets")),
        sa.UniqueConstraint("name", name=op.f("uq_pets_name")),
        sqlite_autoincrement=True,
    )
"""
CARGO = (
    "INSERT INTO cargos (id, owner, backend, created_at, last_accessed_at) "
    "VALUES ('ws-1', 'alice', 'btrfs', '2030-01-01', '2030-01-01')"
)


@contextmanager
def sqlite(path: Path) -> Generator[Connection]:
    """A connection to an empty database, with the transactions of a migration."""
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    event.listen(engine, "connect", _prepare)
    engine.dialect.do_begin = _begin_immediate
    with engine.connect() as connection:
        yield connection


@contextmanager
def postgres() -> Generator[Connection]:
    """A connection to an empty database."""
    if postgres_server.binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres_server.shared().database() as url:
        engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1), poolclass=NullPool)
        with engine.connect() as connection:
            yield connection


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Connection]:
    """A connection to an empty database of either kind."""
    with sqlite(tmp_path / "bay.db") if request.param == "sqlite" else postgres() as connection:
        yield connection


def migrate(db: Connection) -> None:
    bring_up_to_date(db, inspect(db).get_table_names(), "bay")
    db.commit()


@pytest.fixture
def next_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes the migrations one more than they are."""

    def add() -> None:
        made_up = MADE_UP.format(next=NEXT, newest=newest_version())
        shutil.copytree(MIGRATIONS, tmp_path / "migrations")
        (tmp_path / "migrations/versions" / f"{NEXT}_made_up.py").write_text(made_up)
        monkeypatch.setattr(versions, "MIGRATIONS", tmp_path / "migrations")

    return add


def test_the_next_migration_runs_on_either_database(
    db: Connection, next_migration: Callable[[], None]
) -> None:
    migrate(db)
    db.execute(text(CARGO))
    db.commit()
    next_migration()
    migrate(db)
    assert db.execute(text("SELECT version_num FROM alembic_version")).scalars().all() == [NEXT]
    assert db.execute(text("SELECT color FROM cargos")).scalars().all() == ["red"]
    db.execute(text("INSERT INTO pets (name) VALUES ('rex')"))
    assert db.execute(text("SELECT seq, name FROM pets")).all() == [(1, "rex")]
    assert db.execute(text("SELECT error FROM webhooks")).all() == []
    assert "ix_cargos_color" in {index["name"] for index in inspect(db).get_indexes("cargos")}


def test_a_migration_that_fails_leaves_nothing_of_it(
    db: Connection, next_migration: Callable[[], None]
) -> None:
    migrate(db)
    db.execute(text("CREATE TABLE pets (seq INTEGER)"))
    db.commit()
    next_migration()
    with pytest.raises(Exception, match="already exists"):
        migrate(db)
    db.rollback()
    assert db.execute(text("SELECT version_num FROM alembic_version")).scalar() != NEXT
    assert "color" not in {column["name"] for column in inspect(db).get_columns("cargos")}


def test_the_schema_is_the_first_one_of_postgresql_with_its_migrations() -> None:
    with postgres() as migrated, postgres() as made:
        migrated.exec_driver_sql(FIRST.read_text(encoding="utf-8"))
        migrate(migrated)
        migrate(made)
        assert declared(migrated) == declared(made)


_DECLARED = """
    SELECT 'column', table_name, column_name, data_type, coalesce(collation_name, ''), is_nullable,
        coalesce(column_default, '') FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL SELECT 'index', tablename, indexname, indexdef, '', '', '' FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '', ''
        FROM pg_constraint WHERE connamespace = 'public'::regnamespace
"""


def declared(db: Connection) -> set[tuple[str, ...]]:
    """Columns, indexes and rules as PostgreSQL has them."""
    return {tuple(row) for row in db.exec_driver_sql(_DECLARED)}
