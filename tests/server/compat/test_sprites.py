"""Sprites are sandboxes with names: their management, by the routes that its clients call."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel
from server_harness import PROFILES, Json, World, clear, create, served, short_dir, within, world

from bay.server.events.follow import MAX_FOLLOWERS
from bay.server.sandboxes.states import SandboxStates
from bay.server.sessions.rows import peer_of
from bay.server.settings import ProfileSettings
from bay.store.records import Filters

pytestmark = pytest.mark.anyio

WITH_SPRITES = {**PROFILES, "sprite": ProfileSettings.model_validate({"start": "lazy"})}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")


@pytest.fixture
async def bay(tmp_path: Path) -> AsyncGenerator[World]:
    async with world(tmp_path, profiles=WITH_SPRITES) as bay:
        yield bay
    await clear(tmp_path)


class HeldTask(BaseModel):
    id: str


async def make(client: httpx.AsyncClient, name: str, **body: Any) -> Json:
    answer = await client.post("/v1/sprites", json={"name": name, **body})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def test_a_sprite_is_a_sandbox_with_a_name(bay: World) -> None:
    client = await bay.client()
    made = await make(
        client, "box", config={"ram_mb": 512, "cpus": 0.5, "region": "ord"}, labels=["web", "team=a"],
        url_settings={"auth": "public"}, environment={"A": "1"}, wait_for_capacity=None, runtime="default",
    )  # fmt: skip
    native = (await client.get("/v1/sandboxes/box")).json()
    assert (made["id"], made["name"], made["status"]) == (native["id"], "box", "cold")
    assert (native["memory_mb"], native["cpus"], native["profile"]) == (512, 0.5, "sprite")
    assert native["labels"] == {"web": "", "team": "a"}
    assert (native["url"]["port"], native["url"]["access"]) == (8080, "public")
    assert (made["labels"], made["url_settings"]) == (["web", "team=a"], {"auth": "public"})
    assert (made["organization"], made["url"]) == ("alice", native["url"]["href"])
    assert TIME.fullmatch(made["created_at"])
    for ref in ("box", made["id"]):
        assert (await client.get(f"/v1/sprites/{ref}")).json() == made
    answer = await client.post("/v1/sprites", json={"name": "box"})
    assert (answer.status_code, type(answer.json()["error"])) == (409, str)
    gone = await client.delete("/v1/sprites/box")
    assert (gone.status_code, gone.content) == (204, b"")
    lost = await client.get("/v1/sprites/box")
    assert (lost.status_code, lost.json()["error"]) == (404, "sprite not found")


async def test_nulls_are_as_good_as_fields_that_are_left_out(bay: World) -> None:
    client = await bay.client()
    fields = ("config", "environment", "url_settings", "labels", "wait_for_capacity", "runtime")
    made = await make(client, "nulls", **dict.fromkeys(fields), of_a_later_client=1)
    assert (made["labels"], made["url_settings"]) == ([], {"auth": "sprite"})
    same = await client.put("/v1/sprites/nulls", json={"labels": None, "url_settings": None})
    assert (same.status_code, same.json()["labels"]) == (200, [])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": None},
        {"name": "Not A Name"},
        {"name": "x", "labels": ["not a label"]},
        {"name": "x", "url_settings": {"private_access": True}},
        {"name": "x", "runtime": "dev"},
        {"name": "x", "config": {"ram_mb": 1 << 29}},
    ],
    ids=["empty", "null-name", "odd-name", "odd-label", "private", "runtime", "too-large"],
)
async def test_a_create_that_cannot_be_served_says_why_as_text(bay: World, body: Json) -> None:
    answer = await (await bay.client()).post("/v1/sprites", json=body)
    assert answer.status_code in (400, 422), answer.text
    assert isinstance(answer.json()["error"], str)
    assert (await (await bay.client()).get("/v1/sprites")).json()["sprites"] == []


async def test_a_put_changes_what_it_names_and_answers_with_the_whole(bay: World) -> None:
    client = await bay.client()
    made = await make(client, "box", labels=["old"])
    labelled = await client.put("/v1/sprites/box", json={"labels": ["new"]})
    assert labelled.json() == {**made, "labels": ["new"]}
    shared = await client.put("/v1/sprites/box", json={"url_settings": {"auth": "public"}})
    assert shared.json() == {**made, "labels": ["new"], "url_settings": {"auth": "public"}}
    await client.patch("/v1/sandboxes/box", json={"url": {"port": 3000, "access": "public"}})
    await client.put("/v1/sprites/box", json={"url_settings": {"auth": "sprite"}})
    url = (await client.get("/v1/sandboxes/box")).json()["url"]
    assert (url["port"], url["access"]) == (3000, "owner")
    assert (await client.put("/v1/sprites/none", json={"labels": []})).status_code == 404


async def test_pages_have_every_name_once_and_end(bay: World) -> None:
    client, bob = await bay.client(), await bay.client("bob")
    await create(client)  # has no name
    await create(client, name="native")
    names = [f"box-{number}" for number in range(4)]
    for name in names:
        await make(client, name)
    assert (await bob.get("/v1/sprites")).json()["sprites"] == []
    seen: list[str] = []
    token: str | None = ""
    while token is not None:
        params = {"prefix": "box-", "max_results": "2", "continuation_token": token}
        page = (await client.get("/v1/sprites", params=params)).json()
        assert page["has_more"] == (page["next_continuation_token"] is not None)
        assert (page["running"], page["warm"], page["cold"]) == (0, 0, 4)
        seen += [one["name"] for one in page["sprites"]]
        token = page["next_continuation_token"]
    assert seen == names
    whole = (await client.get("/v1/sprites", params={"max_results": 100})).json()
    assert [one["name"] for one in whole["sprites"]] == ["native", *names]
    assert (await client.get("/v1/sprites", params={"continuation_token": "00"})).status_code == 400


async def test_a_hundred_lists_in_a_row_have_the_same_answer(bay: World) -> None:
    client = await bay.client()
    await make(client, "box")
    answers = {(await client.get("/v1/sprites")).text for _ in range(100)}
    assert len(answers) == 1


async def test_a_restart_has_ended_what_ran_when_it_answers(bay: World) -> None:
    client = await bay.client()
    made = await make(client, "box", wait_for_capacity=True)
    assert made["status"] == "running"
    before = await bay.session(made["id"])
    told = (await client.post("/v1/sprites/box/restart")).json()
    assert set(told) == {"sprite_name", "machine_id", "message"}
    after = await bay.settled(made["id"], lambda r: r.phase == "running")
    assert after.session is not None
    assert after.session.id != before.id
    assert (await client.get("/v1/sprites")).json()["running"] == 1
    assert (await client.post("/v1/sprites/box/upgrade")).status_code == 204
    assert (await client.get("/v1/sprites/box")).json()["status"] == "cold"


async def test_a_check_tells_of_a_sprite_and_wakes_none(bay: World) -> None:
    client = await bay.client()
    await make(client, "box")
    told = (await client.get("/v1/sprites/box/check")).json()
    assert (told["sprite_name"], told["status"], told["reason"]) == ("box", "healthy", None)
    assert TIME.fullmatch(told["checked_at"])
    assert (await client.get("/v1/sprites/box")).json()["status"] == "cold"
    bay.driver.fail_at = "launch"
    await client.post("/v1/sandboxes/box/start", params={"wait": 15})
    told = (await client.get("/v1/sprites/box/check")).json()
    assert (told["status"], type(told["reason"])) == ("unhealthy", str)


async def test_errors_are_texts_and_limits_say_when_to_come_again(bay: World) -> None:
    stranger = await bay.open_client({"Authorization": "Bearer of/which/nobody/knows"})
    refused = await stranger.get("/v1/sprites")
    assert (refused.status_code, refused.json()["error"]) == (401, "authentication failed")
    client = await bay.client()
    places = [bay.bay.feed.place("alice") for _ in range(MAX_FOLLOWERS)]
    for place in places:
        place.__enter__()
    full = await client.get("/v1/sprites", headers={"Accept": "application/x-ndjson"})
    for place in places:
        place.__exit__(None, None, None)
    assert full.status_code == 429
    assert full.json()["retry_after_seconds"] == int(full.headers["retry-after"])
    assert full.headers["x-ratelimit-remaining"] == "0"
    assert int(full.headers["x-ratelimit-reset"]) > 0


async def test_a_live_list_tells_of_each_change_without_being_asked() -> None:
    with short_dir() as root:
        await _check_live_list(root)
        await clear(root)


async def _check_live_list(root: Path) -> None:
    async with served(root, profiles=WITH_SPRITES) as live:
        headers = {**live.headers, "Accept": "application/x-ndjson"}
        async with (
            httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=20) as client,
            httpx.AsyncClient(base_url=live.url, timeout=20) as watcher,
        ):
            await make(client, "box-1")
            await create(client)
            async with watcher.stream("GET", "/v1/sprites?prefix=box", headers=headers) as stream:
                lines = stream.aiter_lines()

                async def until(name: str, status: str) -> Json:
                    async for line in lines:
                        told: Json = json.loads(line)
                        assert TIME.fullmatch(told["timestamp"])
                        assert told.get("name", "box").startswith("box")
                        if (told.get("name"), told.get("status")) == (name, status):
                            return told
                    raise AssertionError("the list ended")

                assert (await within(until("box-1", "cold")))["org"]["cold"] == 1
                await make(client, "box-2")
                await make(client, "other")
                await within(until("box-2", "cold"))
                await client.post("/v1/sandboxes/box-1/start", params={"wait": 15})
                assert (await within(until("box-1", "running")))["org"]["running"] == 1
                await client.delete("/v1/sprites/box-2")
                await within(until("box-2", "deleted"))


async def test_a_live_list_beats_while_nothing_changes(bay: World) -> None:
    bay.bay.feed._ping_s = 0.0
    states: SandboxStates = bay.app.state.services[SandboxStates]
    caller = bay.bay.keys.authenticate(f"Bearer {await bay.key()}")
    async with states.follow(caller, Filters(named=True)) as news, asyncio.timeout(20):
        assert (await anext(news)).present == ()
        beat = await anext(news)
    assert (beat.present, beat.removed) == ((), ())


async def test_a_held_task_keeps_a_sprite_awake_until_it_ends_or_the_owner_says_so(bay: World) -> None:
    client = await bay.client()
    made = await make(client, "box", wait_for_capacity=True)
    peer = peer_of(await bay.session(made["id"]))
    assert peer is not None
    held = await bay.bay.ship.call(peer, HeldTask, "POST", "/tasks", body={"name": "build", "ttl": 3600})

    async def idled() -> str:
        bay.clock.advance(1800)
        await bay.bay.sweep.sweep()
        record = await bay.record(made["id"])
        return record.target

    assert await idled() == "running"
    assert (await client.post("/v1/sandboxes/box/pause")).status_code == 200
    await client.post("/v1/sandboxes/box/start", params={"wait": 15})
    assert await idled() == "running"
    async with bay.bay.ship.open(peer, "DELETE", f"/tasks/{held.id}"):
        pass
    assert await idled() == "paused"
