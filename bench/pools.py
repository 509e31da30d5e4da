"""Servers whose profiles keep started sandboxes ready, and that leave nothing all the same."""

from collections.abc import Generator
from contextlib import contextmanager

from examples.own_server import UNPOOLED, OwnServer, own_server

from bench import host
from bench.base import delete_all, wait_until
from bench.raw import Raw

BARE, POOLED = "python-default", "pooled"


@contextmanager
def pooled_server(pool_size: int, more: str = "") -> Generator[OwnServer]:
    """A server with two profiles, alike but for the pool: `BARE` has none, `POOLED` keeps `pool_size`
    started; `more` is a line for both.
    """
    config = f"[profiles.{BARE}]\n{more}\n[profiles.{POOLED}]\n{more}\npool_size = {pool_size}\n"
    with own_server("bay-bench-", config) as server:
        yield server
        drain(server)


def drain(server: OwnServer) -> None:
    """Delete everything, also what waits in pools: that goes when a server starts whose
    profiles have none.
    """
    with server.client() as client:
        delete_all(client)
    server.end()
    server.config = UNPOOLED
    server.start()
    wait_until(lambda: not host.View(server.folder).sessions(), "the pool is drained")


def wait_full(raw: Raw) -> None:
    """Return once every pool holds as many started sandboxes as its profile wants."""
    wait_until(lambda: is_full(raw), "the pool is full")


def is_full(raw: Raw) -> bool:
    """Whether no pool lacks a started sandbox."""
    return all(pool["ready"] >= pool["size"] for pool in raw.call("GET", "/v1/admin/pool")["items"])
