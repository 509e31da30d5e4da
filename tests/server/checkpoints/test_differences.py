"""Differences between checkpoints through the API, on real files with the directory backend."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import Json, World, assert_error, create

pytestmark = pytest.mark.anyio


async def made(client: httpx.AsyncClient, box: Json, name: str) -> str:
    answer = await client.post(f"/v1/sandboxes/{box['id']}/checkpoints", json={"name": name})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


async def diff(client: httpx.AsyncClient, box: Json, ref: str, **params: Any) -> httpx.Response:
    return await client.get(f"/v1/sandboxes/{box['id']}/checkpoints/{ref}/diff", params=params)


async def content(client: httpx.AsyncClient, box: Json, ref: str, path: str) -> httpx.Response:
    address = f"/v1/sandboxes/{box['id']}/checkpoints/{ref}/files/content"
    return await client.get(address, params={"path": path})


def put(world: World, box: Json, name: str, text: str) -> Path:
    path = world.workspace(box) / name
    path.write_text(text)
    return path


async def test_two_checkpoints_and_the_present_files_are_compared(
    alice: httpx.AsyncClient, bay: World
) -> None:
    box = await create(alice, wait=15)
    put(bay, box, "kept", "1")
    put(bay, box, "edited", "1")
    await made(alice, box, "first")
    put(bay, box, "edited", "12")
    await made(alice, box, "second")
    put(bay, box, "new", "1")
    between = (await diff(alice, box, "first", to="second")).json()["items"]
    assert [(one["path"], one["change"]) for one in between] == [("/workspace/edited", "changed")]
    assert (between[0]["before"]["size"], between[0]["after"]["size"]) == (1, 2)
    assert (await alice.post(f"/v1/sandboxes/{box['id']}/stop")).status_code == 200
    now = (await diff(alice, box, "second")).json()
    assert [(one["path"], one["change"]) for one in now["items"]] == [("/workspace/new", "added")]
    assert (now["has_more"], now["next_cursor"]) == (False, None)
    assert (await alice.get(f"/v1/sandboxes/{box['id']}")).json()["compute"] == "cold"


async def test_differences_come_in_pages(alice: httpx.AsyncClient, bay: World) -> None:
    box = await create(alice, wait=15)
    await made(alice, box, "empty")
    for number in range(5):
        put(bay, box, f"file-{number}", "x")
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await diff(alice, box, "empty", limit=2, **cursor)).json()
        seen += [one["path"] for one in page["items"]]
        if not page["has_more"]:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert seen == [f"/workspace/file-{number}" for number in range(5)]
    assert_error(await diff(alice, box, "empty", cursor="made-up"), 422, "validation_error")


async def test_a_file_is_read_as_its_checkpoint_has_it(alice: httpx.AsyncClient, bay: World) -> None:
    box = await create(alice, wait=15)
    put(bay, box, "<b>.html", "before")
    await made(alice, box, "first")
    put(bay, box, "<b>.html", "after")
    answer = await content(alice, box, "first", "<b>.html")
    assert answer.content == b"before"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert_error(await content(alice, box, "first", "absent"), 404, "file_not_found")
    assert_error(await content(alice, box, "first", "a\0b"), 400, "invalid_path")


async def test_neither_side_of_a_comparison_is_of_another_owner(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient, bay: World
) -> None:
    hers, his = await create(alice), await create(bob)
    secret = await made(alice, hers, "hers")
    own = await made(bob, his, "his")
    assert_error(await diff(bob, his, own, to=secret), 404, "not_found")
    assert_error(await diff(bob, his, secret), 404, "not_found")
    assert_error(await content(bob, his, secret, "x"), 404, "not_found")
