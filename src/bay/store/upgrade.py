"""Runs the migrations, by Alembic; `bay.store.versions` loads this for an older database alone."""

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection

from bay.errors import DriverUnavailable
from bay.store.versions import MIGRATIONS


def upgrade(connection: Connection, name: str) -> None:
    """Run every migration that the database has not seen; `name` is for the error.

    Raises DriverUnavailable for a version that is not known here.
    """
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        message = f"the database {name} was made by a newer Bay ({error}); run that one"
        raise DriverUnavailable(message) from error
