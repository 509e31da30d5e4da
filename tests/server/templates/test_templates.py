"""Templates through the API, on a library that has nothing but names: tags, owners, creates and garbage."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from lost_answers import lose_answer
from server_harness import Json, World, assert_error, clear, create, eventually, shell, within, world

from bay.errors import DatabaseUnavailable, StorageFull
from bay.server.templates import maker
from bay.server.templates.freezing import ConfigChanges
from bay.store import checkpoints, images, templates
from bay.store.records import CheckpointRecord, TemplateRecord

pytestmark = pytest.mark.anyio

PROFILES = {
    "machine": {"persist": "machine", "start": "eager", "max_memory_mb": 4096},
    "python-default": {"start": "eager", "max_memory_mb": 4096},
}


async def machines(bay: World) -> None:
    bay.driver.capabilities = replace(bay.driver.capabilities, persist=("workspace", "machine"))


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    """A Bay whose sandboxes keep their root file system."""
    try:
        async with world(root, profiles=PROFILES) as running:
            await machines(running)
            yield running
    finally:
        await clear(root)


@pytest.fixture
async def admin(bay: World) -> httpx.AsyncClient:
    return await bay.client("root", "admin")


async def source(client: httpx.AsyncClient, **body: Any) -> Json:
    """A sandbox that a template can be made of."""
    return await create(client, wait=10, **{"image": "debian:13", "profile": "machine", **body})


async def make(
    client: httpx.AsyncClient, sandbox: str, name: str = "web", wait: float = 10, **body: Any
) -> Json:
    answer = await client.post(
        "/v1/templates", json={"name": name, "sandbox": sandbox, **body}, params={"wait": wait}
    )
    assert answer.status_code == 201, answer.text
    return answer.json()


async def shown(client: httpx.AsyncClient, ref: str) -> Json:
    answer = await client.get(f"/v1/templates/{ref}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def events_of(client: httpx.AsyncClient) -> list[tuple[str, str]]:
    items = (await client.get("/v1/events", params={"limit": 200})).json()["items"]
    return [(e["type"], e["data"]["template_id"]) for e in items if e["type"].startswith("template.")]


async def has_copies(bay: World, count: int) -> None:
    """Wait until so many checkpoints are on the host."""

    async def found() -> bool:
        return len(await bay.checkpoints.list_checkpoints()) == count

    await eventually(found)


async def gone(client: httpx.AsyncClient, sandbox: str) -> None:
    assert (await within(client.delete(f"/v1/sandboxes/{sandbox}"))).status_code == 204


async def test_sandboxes_of_a_template_have_its_image_and_the_files_of_its_source(
    bay: World, admin: httpx.AsyncClient
) -> None:
    box = await source(admin)
    await shell(admin, box["id"], "mkdir app && echo hello > app/file")
    made = await make(admin, box["id"])
    assert (made["name"], made["tag"], made["state"], made["has_files"]) == ("web", "latest", "ready", True)
    assert (made["profile"], made["sandbox_id"], made["error"]) == ("machine", box["id"], None)
    image = (await admin.get(f"/v1/images/{made['image_id']}")).json()
    assert (image["source"], image["state"], image["layers"]) == ("template", "ready", 2)
    await gone(admin, box["id"])
    for ref in ("web", "web:latest", made["id"]):
        one = await create(admin, template=ref, wait=10)
        assert (one["status"], one["profile"], one["image_id"]) == ("ready", "machine", made["image_id"])
        assert (await shell(admin, one["id"], "cat app/file"))["output"] == "hello\n"
        assert one["checkpoint_id"] is None
    assert await events_of(admin) == [("template.building", made["id"]), ("template.ready", made["id"])]


async def test_an_empty_workspace_needs_no_files_and_a_stopped_sandbox_will_do(
    bay: World, admin: httpx.AsyncClient
) -> None:
    box = await source(admin)
    await admin.post(f"/v1/sandboxes/{box['id']}/stop")
    made = await make(admin, box["id"])
    assert (made["state"], made["has_files"]) == ("ready", False)
    await has_copies(bay, 0)
    assert (await create(admin, template="web", wait=10))["status"] == "ready"


async def test_a_template_of_a_templates_sandbox_has_one_layer_more(
    bay: World, admin: httpx.AsyncClient
) -> None:
    first = await make(admin, (await source(admin))["id"])
    box = await create(admin, template="web", wait=10)
    second = await make(admin, box["id"], "web2", tag="v2")
    layers = [(await admin.get(f"/v1/images/{t['image_id']}")).json()["layers"] for t in (first, second)]
    assert layers == [2, 3]
    assert (await create(admin, template="web2:v2", wait=10))["status"] == "ready"
    assert_error(await admin.get("/v1/templates/web2"), 404, "not_found")


async def test_the_config_of_a_template_is_its_images_with_the_changes_that_are_named(
    bay: World, admin: httpx.AsyncClient
) -> None:
    box = await source(admin)
    base = (await admin.get(f"/v1/images/{box['image_id']}")).json()
    config: Json = {
        "Env": ["MODE=fast", "EMPTY="],
        "User": "app:app",
        "Cmd": ["serve", "--all"],
        "Labels": {"kind": "test"},
        "ExposedPorts": {"80": {}},
        "StopSignal": "SIGINT",
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 2_000_000_000},
    }
    made = await make(admin, box["id"], config=config, working_dir="/srv")
    image = (await admin.get(f"/v1/images/{made['image_id']}")).json()
    assert image["env"] == {**base["env"], "MODE": "fast", "EMPTY": ""}
    assert (image["user"], image["working_dir"], image["cmd"]) == ("app:app", "/srv", ["serve", "--all"])
    assert (image["exposed_ports"], image["labels"]["kind"]) == (["80/tcp"], "test")
    assert image["entrypoint"] == base["entrypoint"]
    async with bay.bay.store.read() as db:
        kept = await images.get(db, made["image_id"])
    assert kept is not None
    assert kept.config is not None
    assert (kept.config["stop_signal"], kept.config["healthcheck"]["interval_s"]) == ("SIGINT", 2.0)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"Volumes": {}}, "there is no field Volumes"),
        ({"Env": ["=x"]}, "Env"),
        ({"Env": "A=1"}, "Env: must be a list"),
        ({"User": "a b"}, "User"),
        ({"ExposedPorts": {"0": {}}}, "ExposedPorts"),
        ({"Cmd": ["a\u0000"]}, "Cmd"),
        ({"Healthcheck": {"Test": ["x"]}}, "Healthcheck"),
        ({"Labels": {"a": "b" * (2 << 20)}}, "bytes"),
    ],
)
async def test_a_config_that_breaks_a_rule_of_images_makes_no_template(
    bay: World, admin: httpx.AsyncClient, config: Json, words: str
) -> None:
    box = await source(admin)
    answer = await admin.post("/v1/templates", json={"name": "web", "sandbox": box["id"], "config": config})
    assert answer.status_code in (413, 422)
    assert words in answer.json()["error"]["message"]
    assert (await admin.get("/v1/templates")).json()["items"] == []


async def test_a_create_goes_before_what_the_template_says(bay: World, admin: httpx.AsyncClient) -> None:
    box = await source(admin, memory_mb=2048)
    made = await make(admin, box["id"], env={"A": "template", "B": "template"}, start_command="sleep 1000")
    assert (made["memory_mb"], made["env"]) == (2048, {"A": "***", "B": "***"})
    assert made["start_command"] == ["/bin/sh", "-c", "sleep 1000"]
    one = await create(admin, template="web", env={"B": "create"}, pids=256, wait=10)
    assert (one["memory_mb"], one["pids"]) == (2048, 256)
    assert (await shell(admin, one["id"], "echo $A $B"))["output"] == "template create\n"
    kept = (await admin.get(f"/v1/sandboxes/{one['id']}/services")).json()["items"]
    assert [(s["name"], s["argv"], s["restart"]) for s in kept] == [
        ("main", ["/bin/sh", "-c", "sleep 1000"], "on-failure")
    ]
    other = await create(
        admin, template="web", profile="python-default", services=[{"name": "main", "argv": ["true"]}]
    )
    assert (other["profile"], other["memory_mb"]) == ("python-default", 1024)
    kept = (await admin.get(f"/v1/sandboxes/{other['id']}/services")).json()["items"]
    assert [s["argv"] for s in kept] == [["true"]]
    refused = await admin.post("/v1/sandboxes", json={"template": "web", "image": "debian:13"})
    assert refused.status_code == 400, refused.text


async def test_a_tag_moves_to_the_newer_template_and_the_older_goes_when_nothing_uses_it(
    bay: World, admin: httpx.AsyncClient
) -> None:
    box = await source(admin)
    old = await make(admin, box["id"])
    user = await create(admin, template="web", wait=10)
    new = await make(admin, box["id"])
    assert (await shown(admin, "web"))["id"] == new["id"]
    assert (await shown(admin, old["id"]))["tag"] is None
    assert (await admin.get(f"/v1/sandboxes/{user['id']}")).json()["image_id"] == old["image_id"]
    await bay.bay.template_maker.collect()
    assert await bay.library.is_whole(old["image_id"], ())
    await gone(admin, user["id"])
    await bay.bay.template_maker.collect()
    assert_error(await admin.get(f"/v1/templates/{old['id']}"), 404, "not_found")
    assert not await bay.library.is_whole(old["image_id"], ())
    assert (await create(admin, template="web", wait=10))["status"] == "ready"


async def test_a_tag_can_be_changed_and_taken(bay: World, admin: httpx.AsyncClient) -> None:
    box = await source(admin)
    one, two = await make(admin, box["id"], tag="v1"), await make(admin, box["id"], tag="v2")
    keeper = await create(admin, template="web:v1")
    answer = await admin.patch(f"/v1/templates/{two['id']}", json={"tag": "v1"})
    assert answer.json()["tag"] == "v1"
    assert (await shown(admin, "web:v1"))["id"] == two["id"]
    assert (await shown(admin, one["id"]))["tag"] is None
    assert keeper["image_id"] == one["image_id"]
    for tag in ("", "a b", "-x", "x" * 64):
        answer = await admin.patch(f"/v1/templates/{two['id']}", json={"tag": tag})
        assert answer.status_code in (400, 422), tag


async def alias(client: httpx.AsyncClient, ref: str, name: str, tag: str = "latest") -> Json:
    answer = await client.post(f"/v1/templates/{ref}/aliases", json={"name": name, "tag": tag})
    assert answer.status_code == 200, answer.text
    return answer.json()


def names_of(template: Json) -> list[str]:
    return [f"{template['name']}:{template['tag']}", *template["aliases"]]


async def test_a_template_is_found_by_each_of_its_names(bay: World, admin: httpx.AsyncClient) -> None:
    box = await source(admin)
    made = await make(admin, box["id"], tag="v1")
    other = await make(admin, box["id"], "other")
    found = await alias(admin, "web:v1", "web")
    assert names_of(found) == ["web:v1", "web:latest"]
    assert names_of(await alias(admin, "web", "stable", "2026")) == ["web:v1", "web:latest", "stable:2026"]
    assert await alias(admin, made["id"], "web", "v1") == await alias(admin, made["id"], "stable", "2026")
    for ref in ("web:v1", "web", "stable:2026", made["id"]):
        assert (await shown(admin, ref))["id"] == made["id"]
        assert (await create(admin, template=ref))["image_id"] == made["image_id"]
    assert_error(await admin.get("/v1/templates/stable"), 404, "not_found")
    listed = (await admin.get("/v1/templates", params={"name": "stable"})).json()["items"]
    assert [t["id"] for t in listed] == [made["id"]]
    listed = (await admin.get("/v1/templates")).json()["items"]
    assert [names_of(t) for t in listed] == [names_of(await shown(admin, "web")), names_of(other)]


async def test_a_name_moves_to_the_template_that_is_given_it_last(
    bay: World, admin: httpx.AsyncClient
) -> None:
    box = await source(admin)
    one, two = await make(admin, box["id"], tag="v1"), await make(admin, box["id"], tag="v2")
    user, _ = [await create(admin, template=made["id"]) for made in (one, two)]  # or they would be removed
    await alias(admin, "web:v1", "web")
    assert names_of(await alias(admin, "web:v2", "web")) == ["web:v2", "web:latest"]
    assert names_of(await shown(admin, "web:v1")) == ["web:v1"]
    await alias(admin, "web:v1", "old")
    three = await make(admin, box["id"], tag="v1")
    assert names_of(await shown(admin, one["id"])) == ["old:latest"]  # the newer one has taken its first
    assert (await shown(admin, "web:v1"))["id"] == three["id"]
    four = await make(admin, box["id"])
    assert ((await shown(admin, "web"))["id"], names_of(await shown(admin, two["id"]))) == (
        four["id"],
        ["web:v2"],
    )
    assert names_of(await alias(admin, four["id"], "old")) == ["web:latest", "old:latest"]
    lost = await shown(admin, one["id"])
    assert (lost["tag"], lost["aliases"]) == (None, [])
    assert names_of(await alias(admin, one["id"], "back", "x")) == ["back:x"]
    answer = await admin.patch(f"/v1/templates/{four['id']}", json={"tag": "v2"})
    assert names_of(answer.json()) == ["web:v2", "old:latest"]
    assert (await shown(admin, two["id"]))["tag"] is None
    assert user["image_id"] == one["image_id"]


async def test_a_delete_by_one_name_of_several_takes_that_name_alone(
    bay: World, admin: httpx.AsyncClient
) -> None:
    box = await source(admin)
    made = await make(admin, box["id"])
    user = await create(admin, template="web")
    for name in ("a", "b", "c"):
        await alias(admin, "web", name)
    assert (await admin.delete("/v1/templates/b")).status_code == 204
    assert names_of(await shown(admin, "web")) == ["web:latest", "a:latest", "c:latest"]
    assert (await admin.delete("/v1/templates/web")).status_code == 204
    assert names_of(await shown(admin, "a")) == ["a:latest", "c:latest"]
    assert_error(await admin.get("/v1/templates/web"), 404, "not_found")
    assert_error(await admin.delete("/v1/templates/web"), 404, "not_found")
    assert_error(await admin.delete(f"/v1/templates/{made['id']}"), 409, "conflict")
    assert (await admin.delete("/v1/templates/a")).status_code == 204
    assert_error(await admin.delete("/v1/templates/c"), 409, "conflict")
    await gone(admin, user["id"])
    await alias(admin, "c", "d")
    assert (await admin.delete(f"/v1/templates/{made['id']}")).status_code == 204
    assert (await admin.get("/v1/templates")).json()["items"] == []
    assert await bay.sql("SELECT count(*) FROM template_aliases") == [(0,)]
    assert names_of(await make(admin, box["id"], "d")) == ["d:latest"]


async def test_only_its_owner_names_a_template_that_is_ready_and_not_without_end(
    bay: World, admin: httpx.AsyncClient
) -> None:
    box = await source(admin)
    made = await make(admin, box["id"], shared=True)
    alice = await bay.client("alice")
    body = {"name": "mine"}
    assert_error(await alice.post("/v1/templates/web/aliases", json=body), 403, "forbidden")
    assert (await alias(admin, "web", "other"))["aliases"] == ["other:latest"]
    assert (await create(alice, template="other", wait=10))["image_id"] == made["image_id"]
    for wrong in ({"name": "Web"}, {"name": "a", "tag": "a/b"}, {"name": made["id"]}, {}):
        answer = await admin.post("/v1/templates/web/aliases", json=wrong)
        assert answer.status_code in (400, 422), wrong
    for number in range(99):
        await alias(admin, "web", "many", str(number))
    assert_error(await admin.post("/v1/templates/web/aliases", json=body), 409, "conflict")
    assert len((await alias(admin, "web", "many", "98"))["aliases"]) == 100
    bay.library.let_go.clear()
    building = await make(admin, box["id"], "new", wait=0)
    answer = await admin.post(f"/v1/templates/{building['id']}/aliases", json=body)
    assert_error(answer, 409, "conflict")
    bay.library.let_go.set()


async def test_a_template_in_use_cannot_be_deleted_nor_can_its_image(
    bay: World, admin: httpx.AsyncClient
) -> None:
    box = await source(admin)
    await shell(admin, box["id"], "touch file")
    made = await make(admin, box["id"])
    user = await create(admin, template="web", wait=10)
    error = assert_error(await admin.delete("/v1/templates/web"), 409, "conflict")
    assert error["details"]["users"] == [user["id"]]
    await gone(admin, user["id"])
    await gone(admin, box["id"])
    error = assert_error(await admin.delete(f"/v1/images/{made['image_id']}"), 409, "conflict")
    assert error["details"]["users"] == [made["id"]]
    assert (await admin.post("/v1/images/prune")).json()[
        "items"
    ] != []  # debian:13, which nothing needs by now
    assert await bay.library.is_whole(made["image_id"], ())
    await has_copies(bay, 1)
    assert (await admin.delete("/v1/templates/web")).status_code == 204
    assert (await admin.delete(f"/v1/templates/{made['id']}")).status_code == 204
    assert (await admin.get("/v1/templates")).json()["items"] == []
    assert bay.library.layers == set()
    await has_copies(bay, 0)


async def test_what_has_no_root_of_its_own_is_refused_in_words(bay: World, admin: httpx.AsyncClient) -> None:
    host = await create(admin, profile="machine")
    answer = await admin.post("/v1/templates", json={"name": "web", "sandbox": host["id"]})
    assert "this host's own /usr" in assert_error(answer, 409, "conflict")["message"]
    plain = await create(admin, image="debian:13", wait=10)
    answer = await admin.post("/v1/templates", json={"name": "web", "sandbox": plain["id"]})
    assert "persist: machine" in assert_error(answer, 409, "conflict")["message"]
    answer = await admin.post("/v1/templates", json={"name": "web", "sandbox": "nobody"})
    assert_error(answer, 404, "not_found")
    box = await source(admin)
    wrongs: list[Json] = [
        {"name": "Web"},
        {"tag": "a/b"},
        {"user": "a b"},
        {"working_dir": "rel"},
        {"start_command": []},
    ]
    for wrong in wrongs:
        answer = await admin.post("/v1/templates", json={"name": "web", "sandbox": box["id"], **wrong})
        assert answer.status_code in (400, 422), wrong
    answer = await admin.post("/v1/templates", json={"name": "web", "sandbox": box["id"], "memory_mb": 5000})
    assert_error(answer, 422, "validation_error")


async def test_other_owners_see_a_template_only_when_it_is_shared(
    bay: World, admin: httpx.AsyncClient
) -> None:
    alice = await bay.client("alice")
    box = await source(admin)
    await shell(admin, box["id"], "echo shared > file")
    made = await make(admin, box["id"])
    for ref in ("web", made["id"]):
        assert_error(await alice.get(f"/v1/templates/{ref}"), 404, "not_found")
        assert_error(await alice.post("/v1/sandboxes", json={"template": ref}), 404, "not_found")
    assert_error(
        await alice.post("/v1/templates", json={"name": "x", "sandbox": box["id"], "shared": True}),
        403,
        "forbidden",
    )
    assert (await admin.patch("/v1/templates/web", json={"shared": True})).json()["shared"] is True
    one = await create(alice, template="web", wait=10)
    assert (await shell(alice, one["id"], "cat file"))["output"] == "shared\n"
    assert_error(await alice.patch("/v1/templates/web", json={"tag": "mine"}), 403, "forbidden")
    assert_error(await alice.delete(f"/v1/templates/{made['id']}"), 403, "forbidden")
    assert_error(await admin.delete("/v1/templates/web"), 409, "conflict")


async def test_a_database_that_is_away_fails_no_template(
    bay: World, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, away = templates.change, [DatabaseUnavailable("Bay's database cannot be used just now")]

    async def changed(*of: Any, **values: Any) -> None:
        if values.get("state") and away:
            raise away.pop()
        await change(*of, **values)

    box = await source(admin)
    monkeypatch.setattr(maker, "_RETRY_S", 0.01)
    monkeypatch.setattr(templates, "change", changed)
    assert (await make(admin, box["id"]))["state"] == "ready"
    assert away == []


@pytest.mark.parametrize(("committed", "then_away"), [(True, 0), (True, 1), (False, 0)])
async def test_a_freeze_whose_last_answer_is_lost_keeps_the_files_that_a_row_may_name(
    root: Path, monkeypatch: pytest.MonkeyPatch, committed: bool, then_away: int
) -> None:
    monkeypatch.setattr(maker, "_RETRY_S", 0.01)
    try:
        async with world(root, profiles=PROFILES) as bay:
            await machines(bay)
            admin = await bay.client("root", "admin")
            box = await source(admin)
            await shell(admin, box["id"], "echo kept > file")
            left = lose_answer(
                monkeypatch, bay.bay.store, images, "add", committed=committed, then_away=then_away
            )
            made = await make(admin, box["id"])
            assert (left, made["state"], made["error"]) == ([], "ready", None)
            await gone(admin, box["id"])
            await has_copies(bay, 1)
            keys, library, driver = bay.keys, bay.library, bay.driver
        async with world(root, driver, library=library, profiles=PROFILES) as bay:
            bay.keys.update(keys)
            admin = await bay.client("root", "admin")
            assert len(await bay.checkpoints.list_checkpoints()) == 1
            other = await create(admin, template="web", wait=10)
            assert (await shell(admin, other["id"], "cat file"))["output"] == "kept\n"
    finally:
        await clear(root)


async def test_a_freeze_that_fails_leaves_nothing_but_its_reason(
    bay: World, admin: httpx.AsyncClient
) -> None:
    box = await source(admin)
    await shell(admin, box["id"], "touch file")
    bay.library.fail = StorageFull("no space is left for images")
    made = await make(admin, box["id"])
    assert (made["state"], made["error"]["code"]) == ("failed", "storage_full")
    answer = await admin.post("/v1/sandboxes", json={"template": "web"})
    assert "no space is left" in assert_error(answer, 409, "conflict")["message"]
    await has_copies(bay, 0)
    assert await bay.sql("SELECT count(*) FROM images WHERE source = 'template'") == [(0,)]
    bay.library.fail = None
    again = await make(admin, box["id"])
    assert again["state"] == "ready"
    assert [t["id"] for t in (await admin.get("/v1/templates")).json()["items"]] == [again["id"]]


async def test_a_template_that_is_deleted_while_it_is_made_leaves_nothing(
    bay: World, admin: httpx.AsyncClient
) -> None:
    box = await source(admin)
    await shell(admin, box["id"], "touch file")
    bay.library.let_go.clear()
    made = await make(admin, box["id"], wait=0)
    assert made["state"] == "building"
    assert_error(await admin.post("/v1/sandboxes", json={"template": "web"}), 409, "conflict")
    assert (await admin.delete(f"/v1/templates/{made['id']}")).status_code == 204
    bay.library.let_go.set()

    async def all_gone() -> bool:
        await bay.bay.puller.collect()
        layers = {layer for names in bay.library.here.values() for layer in names}
        return await bay.checkpoints.list_checkpoints() == set() and len(layers) == 1

    await eventually(all_gone)
    assert [kind for kind, _ in await events_of(admin)] == ["template.building", "template.deleted"]


async def test_one_that_was_begun_by_an_earlier_bay_is_made_by_the_next(root: Path) -> None:
    try:
        async with world(root, profiles=PROFILES) as bay:
            await machines(bay)
            admin = await bay.client("root", "admin")
            box = await source(admin)
            await shell(admin, box["id"], "echo kept > file")
            ready = await make(admin, box["id"], "ready")
            bay.library.let_go.clear()
            made = await make(admin, box["id"], wait=0)
            library, driver = bay.library, bay.driver

            async def is_held() -> bool:
                return bool(library.frozen)

            await eventually(is_held)
        library.let_go.set()
        async with world(root, driver, profiles=PROFILES, library=library) as bay:
            await machines(bay)
            admin = await bay.client("root", "admin")
            found = (await admin.get(f"/v1/templates/{made['id']}", params={"wait": 10})).json()
            assert found["state"] == "ready"
            for ref in ("web", ready["id"]):
                one = await create(admin, template=ref, wait=10)
                assert (await shell(admin, one["id"], "cat file"))["output"] == "kept\n"
            await has_copies(bay, 2)
    finally:
        await clear(root)


async def test_a_repeated_request_makes_one_template(bay: World, admin: httpx.AsyncClient) -> None:
    box = await source(admin)
    body, headers = {"name": "web", "sandbox": box["id"]}, {"Idempotency-Key": "once"}
    answers = [await admin.post("/v1/templates", json=body, headers=headers) for _ in range(2)]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    make_one = {"template": answers[0].json()["id"]}
    await admin.get(f"/v1/templates/{make_one['template']}", params={"wait": 10})
    boxes = [
        (await admin.post("/v1/sandboxes", json=make_one, headers={"Idempotency-Key": "box"})).json()["id"]
        for _ in range(2)
    ]
    assert boxes[0] == boxes[1]


async def test_a_builder_freezes_a_checkpoint_that_stays_with_changes_to_the_config(
    bay: World, admin: httpx.AsyncClient
) -> None:
    box = await source(admin)
    kept = (await admin.post(f"/v1/sandboxes/{box['id']}/checkpoints", json={"name": "step"})).json()["id"]
    made = await make(admin, box["id"], wait=10)
    async with bay.bay.store.read() as db:
        checkpoint = await checkpoints.get(db, kept)
    assert isinstance(checkpoint, CheckpointRecord)
    template = TemplateRecord(
        id="tmpl-" + "0" * 24, owner="root", name="built", tag="v1", profile="machine", created_at=bay.clock(),
    )  # fmt: skip
    async with bay.bay.store.write() as db:
        await templates.add(db, template)
    changes = ConfigChanges(
        env={"A": "b"}, cmd=("serve",), labels={"l": "v"}, exposed_ports=("80/tcp",), user="app"
    )
    ready = await bay.bay.freezer.freeze(template, checkpoint, changes)
    assert (ready.state, ready.ref) == ("ready", "built:v1")
    async with bay.bay.store.read() as db:
        image = await images.get(db, ready.image_id or "")
    assert image is not None
    assert image.config is not None
    assert (image.config["env"], image.config["cmd"], image.config["user"]) == ({"A": "b"}, ["serve"], "app")
    assert kept in await bay.checkpoints.list_checkpoints()
    assert made["state"] == "ready"


async def test_a_create_waits_until_the_start_command_serves(bay: World, admin: httpx.AsyncClient) -> None:
    box = await source(admin)
    start, ready = "sleep 0.5; touch up; sleep 1000", ["test", "-e", "up"]
    await make(admin, box["id"], start_command=start, ready_command=ready)
    one = await create(admin, template="web", wait=15)
    assert (await shell(admin, one["id"], "ls"))["output"] == "up\n"
    [main] = (await admin.get(f"/v1/sandboxes/{one['id']}/services")).json()["items"]
    assert (main["name"], main["healthy"], main["health"]["argv"]) == ("main", True, ready)
    await make(admin, box["id"], "broken", start_command=["/nonexistent"], ready_command=["true"])
    two = await within(create(admin, template="broken", wait=0.5))
    assert two["status"] == "ready"
    alone = {"name": "x", "sandbox": box["id"], "ready_command": "true"}
    assert (await admin.post("/v1/templates", json=alone)).status_code in (400, 422)


async def test_a_layer_that_templates_share_counts_once_against_the_quota(root: Path) -> None:
    try:
        async with world(root, profiles=PROFILES, owners={"root": {"disk_mb": 2}}) as bay:
            await machines(bay)
            admin = await bay.client("root", "admin")
            bay.library.contents = {"docker.io/library/debian:13": tuple(f"sha256:{n}" for n in range(1000))}
            box = await source(admin)
            for name in ("one", "two", "three"):
                assert (await make(admin, box["id"], name))["state"] == "ready"
    finally:
        await clear(root)
