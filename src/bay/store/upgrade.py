"""Runs the migrations, by Alembic; `bay.store.versions` loads this for an older database alone."""

from collections.abc import Generator
from contextlib import contextmanager

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy import Connection

from bay.errors import DriverUnavailable
from bay.store import versions
from bay.store.versions import Step


def outstanding(version: str | None, name: str) -> list[Step]:
    """The migrations after `version`, in order; `name` is for the error, as in `upgrade`."""
    with _known(name):
        found = ScriptDirectory.from_config(_config()).iterate_revisions("head", version or "base")
        return [Step(one.revision, getattr(one.module, "BESIDE", False)) for one in reversed([*found])]


def upgrade(connection: Connection, name: str) -> None:
    """Run every migration that the database has not seen; `name` is for the error.

    Raises DriverUnavailable for a version that is not known here.
    """
    config = _config()
    config.attributes["connection"] = connection
    with _known(name):
        command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(versions.MIGRATIONS))
    return config


@contextmanager
def _known(name: str) -> Generator[None]:
    try:
        yield
    except (CommandError, RevisionError) as error:
        message = f"the database {name} was made by a newer Bay ({error}); run that one"
        raise DriverUnavailable(message) from error
