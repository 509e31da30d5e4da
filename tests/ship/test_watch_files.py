"""Watching files: what is told, in which order, and that nothing is missed or waited for."""

import json
import os
import shutil
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from ship_harness import PATIENCE_S, Ship, running
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from ship.files import watching
from ship.files.inotify import Inotify
from ship_protocol import CloseCode

pytestmark = pytest.mark.host


@contextmanager
def watched(
    ship: Ship, path: str = ".", *, recursive: bool = True, **more: str
) -> Generator[ClientConnection]:
    """A socket behind its first message."""
    query = httpx.QueryParams({"path": path, "recursive": str(recursive).lower(), **more})
    with ship.websocket(f"/fs/watch?{query}") as socket:
        assert json.loads(socket.recv(PATIENCE_S))["type"] == "watching"
        yield socket


def until(socket: ClientConnection, kind: str, path: Path) -> list[dict[str, Any]]:
    """What is told up to that."""
    told: list[dict[str, Any]] = []
    while not told or (told[-1]["type"], told[-1].get("path")) != (kind, str(path)):
        told.append(json.loads(socket.recv(PATIENCE_S)))
    return told


def short(told: list[dict[str, Any]], top: Path) -> list[str]:
    """Each as `type path`, once."""
    listed = (
        " ".join(
            (event["type"], *(os.path.relpath(event[key], top) for key in ("path", "to") if key in event))
        )
        for event in told
    )
    return list(dict.fromkeys(listed))


def test_each_kind_of_event_is_told(ship: Ship) -> None:
    top = ship.workspace
    (top / "d").mkdir()
    with watched(ship) as socket:
        (top / "d/a").write_text("x")
        (top / "d/a").chmod(0o600)
        (top / "d/a").rename(top / "b")
        (top / "d").rename(top / "e")
        (top / "e/in").touch()
        (top / "b").unlink()
        told = until(socket, "deleted", top / "b")
    assert [one for one in short(told, top) if "attributes e/in" not in one] == [
        "created d/a", "modified d/a", "attributes d/a", "moved d/a b", "moved d e", "created e/in", "deleted b",
    ]  # fmt: skip


def test_events_have_the_sizes_of_files_where_the_watch_asks_for_them(ship: Ship) -> None:
    top = ship.workspace
    (top / "d").mkdir()
    with watched(ship, sizes="true") as socket:
        (top / "d/a").write_text("four")
        created, *_, modified = until(socket, "modified", top / "d/a")
        # A size is that of the moment of telling, and a file is created before it is written.
        assert (created["type"], created["size"] in (0, 4), modified["size"]) == ("created", True, 4)
        (top / "d/a").rename(top / "b")
        moved = until(socket, "moved", top / "d/a")[-1]
        assert (moved["to"], moved["size"]) == (str(top / "b"), 4)
        (top / "link").symlink_to("b")
        (top / "d").rmdir()
        (top / "b").unlink()
        assert not any("size" in event for event in until(socket, "deleted", top / "b"))


@pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces, which takes root")
def test_a_watch_is_that_of_the_user_whom_the_query_names() -> None:
    with running(first=True) as ship:
        closed = ship.workspace / "closed"
        closed.mkdir(mode=0o700)
        with pytest.raises(InvalidStatus) as refused, watched(ship, "closed"):
            pass
        assert refused.value.response.status_code == 403
        with watched(ship, "closed", user="root", sizes="true") as socket:
            (closed / "new").write_text("four")
            assert until(socket, "modified", closed / "new")[-1]["size"] == 4


def test_the_end_of_a_watch_with_sizes_loses_no_event(ship: Ship) -> None:
    top = ship.workspace / "d"
    top.mkdir()
    with watched(ship, "d", sizes="true") as socket:
        for number in range(200):
            (top / str(number)).touch()
        shutil.rmtree(top)
        told = until(socket, "deleted", top)
    assert {event["path"] for event in told if event["type"] == "created"} >= {
        str(top / "0"),
        str(top / "199"),
    }


def test_nothing_in_new_directories_is_missed_or_told_twice(ship: Ship) -> None:
    top = ship.workspace
    with watched(ship) as socket:
        for number in range(40):
            deep = top / f"n{number}/a/b/c"
            deep.mkdir(parents=True)
            (deep / "file").touch()
        (top / "end").touch()
        told = until(socket, "created", top / "end")
        created = [event["path"] for event in told if event["type"] == "created"]
        wanted = {str(path) for path in top.rglob("*")}
        while set(created) != wanted:
            created.append(json.loads(socket.recv(PATIENCE_S))["path"])
        assert len(created) == len(set(created))


def test_what_leaves_is_deleted_and_what_comes_in_is_created(ship: Ship) -> None:
    top, outside = ship.workspace, ship.workspace.parent / "outside"
    (top / "d/sub").mkdir(parents=True)
    with watched(ship) as socket:
        (top / "d").rename(outside)
        assert short(until(socket, "deleted", top / "d"), top) == ["deleted d"]
        (outside / "unseen").touch()
        outside.rename(top / "back")
        told = until(socket, "created", top / "back/unseen")
        assert set(short(told, top)) >= {"created back", "created back/unseen"}
        (top / "back/sub/x").touch()
        until(socket, "created", top / "back/sub/x")


def test_without_recursion_only_the_directory_itself_is_watched(ship: Ship) -> None:
    top = ship.workspace
    (top / "d").mkdir()
    with watched(ship, recursive=False) as socket:
        (top / "d/x").touch()
        (top / "new").mkdir()
        (top / "new/y").touch()
        (top / "end").touch()
        assert short(until(socket, "created", top / "end"), top) == ["created new", "created end"]


def test_a_file_is_watched_through_its_replacement(ship: Ship) -> None:
    top = ship.workspace
    (top / "conf").write_text("1")
    with watched(ship, "conf") as socket:
        (top / "beside").write_text("2")
        (top / "beside").rename(top / "conf")
        (top / "conf").unlink()
        assert short(until(socket, "deleted", top / "conf"), top) == ["created conf", "deleted conf"]


def test_the_end_of_what_is_watched_is_told_and_closes_the_socket(ship: Ship) -> None:
    (ship.workspace / "d/e").mkdir(parents=True)
    with watched(ship, "d") as socket:
        shutil.rmtree(ship.workspace / "d")
        assert until(socket, "deleted", ship.workspace / "d")[-1]["is_dir"] is True
        with pytest.raises(ConnectionClosed):
            socket.recv(PATIENCE_S)
        assert socket.close_code == 1000


def test_a_reader_who_is_slow_gets_one_overflow_and_goes_on(ship: Ship) -> None:
    top = ship.workspace
    with watched(ship) as socket:
        for number in range(20_000):
            os.close(os.open(top / f"f{number}", os.O_CREAT | os.O_WRONLY))
            os.unlink(top / f"f{number}")
        (top / "end").touch()
        told = until(socket, "created", top / "end")
        assert {"type": "overflow"} in told
        assert len(told) < 40_000
        (top / "after").touch()
        assert until(socket, "created", top / "after")


def test_there_are_few_watchers_and_what_cannot_be_watched_is_refused_in_http(ship: Ship) -> None:
    with ExitStack() as stack:
        for _ in range(32):
            stack.enter_context(watched(ship))
        with pytest.raises(InvalidStatus) as refused, watched(ship):
            pass
        assert refused.value.response.status_code == 409
    for path, status in (("none", 404), ("../..", 403)):
        with pytest.raises(InvalidStatus) as refused, watched(ship, path):
            pass
        assert refused.value.response.status_code == status
    assert ship.http.get("/fs/watch").status_code == 400


def test_whoever_watches_has_nothing_to_say(ship: Ship) -> None:
    with watched(ship) as socket:
        socket.send("hello")
        with pytest.raises(ConnectionClosed):
            socket.recv(PATIENCE_S)
        assert socket.close_code == CloseCode.BAD_MESSAGE


@pytest.mark.parametrize(("way", "watches"), [("proc", 0), ("sys", 0), ("etc", 1)])
def test_what_the_kernel_makes_up_is_not_walked_into(way: str, watches: int) -> None:
    events, top = Inotify(), os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    found = watching._Found()  # pyright: ignore[reportPrivateUsage]
    look = watching._Look(events, found, 1, recursive=True)  # pyright: ignore[reportPrivateUsage]
    try:
        look._descend(top, (way,), 1)  # pyright: ignore[reportPrivateUsage]
    finally:
        os.close(top)
        events.close()
    assert len(found.watches) == watches


def test_what_ship_makes_beside_its_place_is_not_told(ship: Ship) -> None:
    top = ship.workspace
    for path in ("old/in", "other/in"):
        (top / path).mkdir(parents=True)

    def put(path: str, content: bytes) -> None:
        answer = ship.http.put("/fs/content", params={"path": path}, content=content)
        assert answer.status_code == 200, answer.text

    def post(what: str, **body: object) -> None:
        answer = ship.http.post(f"/fs/{what}", json=body)
        assert answer.status_code == 200, answer.text

    with watched(ship) as socket:
        put("new", b"one")
        put("new", b"two")
        post("edit", path="new", old="two", new="three")
        post("copy", source="old", destination="copied")
        (top / "copied/in/side").touch()
        post("copy", source="other", destination="old", overwrite=True)  # an exchange of the two
        (top / "old/in/side").touch()
        (top / "end").touch()
        told = until(socket, "created", top / "end")
    assert [one for one in short(told, top) if not one.startswith("attributes ")] == [
        "created new", "created copied", "created copied/in", "created copied/in/side",
        "created old", "created old/in", "created old/in/side", "created end",
    ]  # fmt: skip
    assert sum((one["type"], one["path"]) == ("created", str(top / "new")) for one in told) == 3


def test_a_file_that_an_upload_replaces_is_told_to_who_watches_it_alone(ship: Ship) -> None:
    (ship.workspace / "one").write_text("old")
    with watched(ship, "one") as socket:
        ship.http.put("/fs/content", params={"path": "one"}, content=b"new")
        told = until(socket, "created", ship.workspace / "one")
    assert [event["type"] for event in told] == ["created"]
