"""A PostgreSQL database for each place of a Bay under test, made from a template that is migrated already."""

import asyncio
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import postgres_server

from bay.store.engine import Store
from bay.store.postgres import PostgresDatabase

_of_place: dict[Path, tuple[str, ExitStack]] = {}


def migrate(url: str) -> None:
    """Make the tables of an empty database, also where an event loop runs. Blocking."""

    async def make() -> None:
        store = Store(PostgresDatabase(url))
        try:
            await store.open()
        finally:
            await store.aclose()

    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(make())
        except BaseException as error:  # noqa: BLE001 - raised below
            failed.append(error)

    thread = Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def url_for(place: Path) -> str:
    """The URL of the database of that place, which is made at the first call."""
    if place not in _of_place:
        stack = ExitStack()
        _of_place[place] = stack.enter_context(postgres_server.shared().database(migrate)), stack
    return _of_place[place][0]


def drop(directory: Path) -> None:
    """Drop the databases of all places in that directory, whose Bays have ended."""
    for place in [place for place in _of_place if place.is_relative_to(directory)]:
        _, stack = _of_place.pop(place)
        stack.close()
