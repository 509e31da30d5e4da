"""Runs the migrations, by Alembic; `bay.store.engine` loads this for a database of another version alone."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection

from bay.errors import DriverUnavailable
from bay.store.engine import MIGRATIONS


def upgrade(connection: Connection, path: Path) -> None:
    """Run every migration that the database has not seen; `path` is for the error.

    Raises DriverUnavailable for a version that is not known here.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        message = f"the database {path} was made by a newer Bay ({error}); run that one"
        raise DriverUnavailable(message) from error
