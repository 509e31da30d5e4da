"""Builds through the API on the fake driver, whose sandboxes run commands as this process does: what is asked
for, waits, fails, is cancelled and begins again. What steps make of files is tested on the real driver.
"""

import asyncio
import io
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from build_machines import machines
from server_harness import Json, World, assert_error, clear, eventually, until, world

from bay.errors import DatabaseUnavailable
from bay.server.builds import files
from bay.server.templates import maker
from bay.server.templates.build_spec import BuildSpec
from bay.store import checkpoints, schema, templates
from bay.store.records import CheckpointRecord

pytestmark = pytest.mark.anyio

PROFILES = {
    "machine": {"persist": "machine", "start": "eager"},
    "python-default": {"start": "eager"},
}
HELLO: Json = {"dockerfile": "FROM debian:13\nRUN echo hello\n"}


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    try:
        async with world(root, profiles=PROFILES) as running:
            machines(running)
            yield running
    finally:
        await clear(root)


@pytest.fixture
async def client(bay: World) -> httpx.AsyncClient:
    return await bay.client("root", "admin")


async def ask(client: httpx.AsyncClient, name: str = "web", wait: float = 20, **body: Any) -> httpx.Response:
    given = {"name": name, "profile": "machine", **body}
    return await client.post("/v1/templates", json=given, params={"wait": wait} if wait else {})


async def build(client: httpx.AsyncClient, name: str = "web", wait: float = 20, **body: Any) -> Json:
    answer = await ask(client, name, wait, **body)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def log_of(client: httpx.AsyncClient, ref: str, **params: Any) -> str:
    answer = await client.get(f"/v1/templates/{ref}/log", params=params)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    return answer.text


async def boxes(client: httpx.AsyncClient) -> list[Json]:
    return (await client.get("/v1/sandboxes")).json()["items"]


async def begun(client: httpx.AsyncClient, ref: str, words: str) -> None:
    """Wait until the log has those words."""

    async def found() -> bool:
        return words in await log_of(client, ref)

    await eventually(found)


def tar_of(**files: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return made.getvalue()


async def test_a_dockerfile_is_built_and_its_log_stays(client: httpx.AsyncClient) -> None:
    made = await build(client, **HELLO)
    assert (made["state"], made["sandbox_id"], made["error"]) == ("ready", None, None)
    log = "FROM debian:13\n[1/1] RUN echo hello\nhello\nfreezing\n"
    assert await log_of(client, "web") == log
    assert await log_of(client, "web", since=15) == log[15:]
    assert await boxes(client) == []


async def test_steps_are_built_and_name_the_start_command(client: httpx.AsyncClient) -> None:
    steps = [{"env": {"A": "1"}}, {"run": ["sh", "-c", "echo a is $A"]}, {"start_command": "sleep 1000"}]
    made = await build(client, image="debian:13", steps=steps)
    assert (made["state"], made["start_command"]) == ("ready", ["/bin/sh", "-c", "sleep 1000"])
    assert "a is 1\n" in await log_of(client, made["id"])


async def test_a_step_that_fails_fails_the_template_and_its_log_says_why(client: httpx.AsyncClient) -> None:
    made = await build(client, dockerfile="FROM debian:13\nRUN echo why; exit 3\nRUN echo never")
    assert made["state"] == "failed"
    assert made["error"]["code"] == "build_failed"
    assert (
        made["error"]["message"] == "Dockerfile line 2: RUN echo why; exit 3 ended with 3; its last line: why"
    )
    log = await log_of(client, made["id"])
    assert log.endswith(f"failed: {made['error']['message']}\n")
    assert "never" not in log
    assert await boxes(client) == []


async def test_a_step_that_takes_too_long_is_ended(client: httpx.AsyncClient) -> None:
    made = await build(client, dockerfile="FROM debian:13\nRUN sleep 1000", step_timeout=1)
    assert "took longer than 1 s" in made["error"]["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "give one of sandbox, dockerfile and steps"),
        ({**HELLO, "steps": [], "image": "a"}, "give one of sandbox, dockerfile and steps"),
        ({"steps": [{"run": "true"}]}, "image and steps belong together"),
        ({**HELLO, "image": "a"}, "image and steps belong together"),
        ({"sandbox": "box", "args": {"A": "1"}}, "args is for builds"),
        ({**HELLO, "config": {"User": "1"}}, "config is for a sandbox"),
        ({"dockerfile": "RUN true"}, "RUN stands before FROM"),
        ({"dockerfile": "FROM a\nFROM a AS scratch"}, "line 2"),
        ({"image": "a", "steps": [{"run": "true", "user": "1"}]}, "a step has one key"),
        ({"image": "a", "steps": [{"sing": "true"}]}, "sing"),
        ({"image": "a", "steps": [{"copy": {"sources": ["/x"], "target": "/y", "link": True}}]}, "link"),
        ({**HELLO, "step_timeout": 0}, "step_timeout"),
    ],
)
async def test_a_build_that_breaks_a_rule_is_refused_before_it_begins(
    client: httpx.AsyncClient, body: Json, words: str
) -> None:
    answer = await ask(client, **body)
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["error"]["message"]
    assert (await client.get("/v1/templates")).json()["items"] == []


async def test_a_profile_that_keeps_the_workspace_alone_is_refused(client: httpx.AsyncClient) -> None:
    answer = await ask(client, profile="python-default", **HELLO)
    assert_error(answer, 409, "conflict")
    assert "persist: machine" in answer.text


async def test_a_build_waits_for_its_context_and_begins_with_it(client: httpx.AsyncClient) -> None:
    made = await build(client, wait=0, context=True, **HELLO)
    ref = f"/v1/templates/{made['id']}"
    assert (await client.get(ref, params={"wait": 0.2})).json()["state"] == "building"
    assert await log_of(client, made["id"]) == ""
    answer = await client.put(f"{ref}/context", content=tar_of(a="1"))
    assert answer.status_code == 200, answer.text
    assert (await client.get(ref, params={"wait": 20})).json()["state"] == "ready"
    again = await client.put(f"{ref}/context", content=tar_of(a="1"))
    assert_error(again, 409, "conflict")


async def test_a_build_that_an_outage_of_the_database_ends_begins_again_with_its_context(
    bay: World, client: httpx.AsyncClient, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, away = bay.bay.snapshots.make, [DatabaseUnavailable("Bay's database cannot be used just now")]

    async def in_an_outage(*of: Any) -> CheckpointRecord:
        if away:
            raise away.pop()
        return await make(*of)

    monkeypatch.setattr(maker, "_RETRY_S", 0.01)
    monkeypatch.setattr(bay.bay.snapshots, "make", in_an_outage)
    made = await build(client, wait=0, context=True, **HELLO)
    answer = await client.put(f"/v1/templates/{made['id']}/context", content=tar_of(a="1"))
    assert answer.status_code == 200, answer.text
    ended = (await client.get(f"/v1/templates/{made['id']}", params={"wait": 20})).json()
    assert (away, ended["state"], ended["error"]) == ([], "ready", None)
    log = "FROM debian:13\n[1/1] RUN echo hello\nhello\n"
    assert await log_of(client, made["id"]) == (
        f"{log}Bay's database cannot be used just now; the build begins again\n{log}freezing\n"
    )
    assert await boxes(client) == []
    await until(lambda: [path.name for path in (root / "data" / "builds" / made["id"]).iterdir()] == ["log"])


async def test_a_context_of_several_megabytes_is_taken(client: httpx.AsyncClient) -> None:
    made = await build(client, wait=0, context=True, **HELLO)
    answer = await client.put(f"/v1/templates/{made['id']}/context", content=tar_of(a="x" * (5 << 20)))
    assert answer.status_code == 200, answer.text


async def test_a_row_that_was_deleted_meanwhile_is_not_built(bay: World, client: httpx.AsyncClient) -> None:
    """The maker may have read it before."""
    made = await build(client, wait=0, context=True, **HELLO)
    async with bay.bay.store.read() as db:
        stale = await templates.get(db, made["id"])
    assert stale is not None
    assert (await client.delete(f"/v1/templates/{made['id']}")).status_code == 204
    await bay.bay.template_maker._make(stale)
    assert await boxes(client) == []
    async with bay.bay.store.read() as db:
        row = await templates.get(db, made["id"])
    assert row is not None
    assert row.build is None  # arguments of builds are not kept


@pytest.mark.parametrize(
    ("dockerfile", "words"),
    [
        ("ARG " + " ".join(f"a{n}=1" for n in range(300)), "more than 256 arguments"),
        ("ENV " + " ".join(f"a{n}=1" for n in range(300)), "there are 300 variables"),
        ("LABEL " + " ".join(f"a{n}=1" for n in range(1001)), "the limit is 1000"),
        ("COPY " + " ".join(f"a{n}" for n in range(1001)) + " /x/", "1001 sources"),
    ],
)
async def test_what_a_plan_holds_is_bounded(client: httpx.AsyncClient, dockerfile: str, words: str) -> None:
    answer = await ask(client, dockerfile=f"FROM debian:13\n{dockerfile}")
    made = answer.json()
    assert words in (made["error"]["message"]), answer.text


@pytest.mark.parametrize("content", [b"no tar" * 200, tar_of(**{"../a": "1"}), tar_of(a="1")[:600]])
async def test_a_context_that_is_no_tar_of_files_is_refused_and_may_come_again(
    client: httpx.AsyncClient, content: bytes
) -> None:
    made = await build(client, wait=0, context=True, **HELLO)
    refused = await client.put(f"/v1/templates/{made['id']}/context", content=content)
    assert refused.status_code == 422, refused.text
    answer = await client.put(f"/v1/templates/{made['id']}/context", content=tar_of(a="1"))
    assert answer.status_code == 200


async def test_a_context_beyond_the_limit_is_refused_and_leaves_nothing(root: Path) -> None:
    try:
        async with world(root, profiles=PROFILES, max_context_mb=1) as bay:
            machines(bay)
            client = await bay.client("root", "admin")
            made = await build(client, wait=0, context=True, **HELLO)

            async def body() -> AsyncIterator[bytes]:
                for _ in range(3):
                    yield bytes(1 << 20)

            answer = await client.put(f"/v1/templates/{made['id']}/context", content=body())
            assert_error(answer, 413, "payload_too_large")
            assert [path for path in (root / "data" / "builds").rglob("*") if path.is_file()] == []
    finally:
        await clear(root)


async def test_a_copy_of_what_the_context_lacks_fails_before_a_sandbox_starts(
    client: httpx.AsyncClient,
) -> None:
    made = await build(client, wait=0, context=True, dockerfile="FROM debian:13\nRUN echo first\nCOPY b /\n")
    await client.put(f"/v1/templates/{made['id']}/context", content=tar_of(a="1"))
    ended = (await client.get(f"/v1/templates/{made['id']}", params={"wait": 20})).json()
    assert "line 3: the context has no file b" in ended["error"]["message"]
    assert "first" not in await log_of(client, made["id"])


async def test_a_build_whose_context_never_comes_fails_after_an_hour(
    bay: World, client: httpx.AsyncClient
) -> None:
    made = await build(client, wait=0, context=True, **HELLO)
    bay.clock.advance(3601)
    bay.bay.template_maker.poke()
    ended = (await client.get(f"/v1/templates/{made['id']}", params={"wait": 20})).json()
    assert (ended["state"], ended["error"]["code"]) == ("failed", "timeout")


async def test_the_log_of_a_build_is_followed_to_its_end(client: httpx.AsyncClient, tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = f"echo begun; until [ -e {go} ]; do sleep 0.05; done; echo over"
    made = await build(client, wait=0, image="debian:13", steps=[{"run": script}])
    await begun(client, made["id"], "\nbegun\n")
    following = asyncio.create_task(log_of(client, made["id"], follow="true"))
    go.touch()
    async with asyncio.timeout(20):
        assert (await following).endswith("begun\nover\nfreezing\n")


async def test_a_deleted_build_ends_and_leaves_no_sandbox(
    bay: World, client: httpx.AsyncClient, root: Path
) -> None:
    made = await build(client, wait=0, image="debian:13", steps=[{"run": "echo begun; sleep 1000"}])
    await begun(client, made["id"], "\nbegun\n")
    assert len(await boxes(client)) == 1
    answer = await client.delete(f"/v1/templates/{made['id']}")
    assert answer.status_code == 204
    assert await boxes(client) == []
    assert list((root / "data" / "builds").iterdir()) == []


async def test_a_build_that_the_end_of_bay_cut_off_begins_again_without_the_old_sandbox(root: Path) -> None:
    try:
        async with world(root, profiles=PROFILES) as bay:
            machines(bay)
            client = await bay.client("root", "admin")
            script = f"echo begun; [ -e {root}/again ] || sleep 1000"
            made = await build(client, wait=0, image="debian:13", steps=[{"run": script}])
            await begun(client, made["id"], "\nbegun\n")
            (first,) = await boxes(client)
        (root / "again").touch()
        async with world(root, profiles=PROFILES) as bay:
            machines(bay)
            client = await bay.client("root", "admin")
            ended = (await client.get(f"/v1/templates/{made['id']}", params={"wait": 20})).json()
            assert ended["state"] == "ready", ended
            assert await boxes(client) == []
            assert (await log_of(client, made["id"])).count("\nbegun\n") == 2
            assert first["labels"] == {"bay.build": made["id"]}
    finally:
        await clear(root)


async def test_a_build_of_an_earlier_bay_whose_text_is_refused_now_fails_with_a_reason(root: Path) -> None:
    try:
        async with world(root, profiles=PROFILES) as bay:
            machines(bay)
            client = await bay.client("root", "admin")
            made = await build(client, wait=0, image="debian:13", steps=[{"run": "echo begun; sleep 1000"}])
            await begun(client, made["id"], "\nbegun\n")
            text = f"FROM debian:13\nHEALTHCHECK --interval={'1' * 60_000} CMD true\n"
            async with bay.bay.store.read() as db:
                row = await templates.get(db, made["id"])
            assert row is not None
            spec = replace(BuildSpec.of_row(row.build or {}), dockerfile=text, image=None, steps=None)
            async with bay.bay.store.write() as db:
                mine = schema.templates.c.id == made["id"]
                await db.execute(schema.templates.update().where(mine).values(build=spec.to_row()))
        async with world(root, profiles=PROFILES) as bay:
            machines(bay)
            client = await bay.client("root", "admin")
            ended = (await client.get(f"/v1/templates/{made['id']}", params={"wait": 20})).json()
            assert (ended["state"], ended["error"]["code"]) == ("failed", "validation_error"), ended
            assert "is no duration; write such as 30s" in ended["error"]["message"]
            assert await boxes(client) == []
    finally:
        await clear(root)


async def test_an_owner_has_a_bounded_number_of_builds(client: httpx.AsyncClient) -> None:
    for number in range(20):
        await build(client, f"web-{number}", wait=0, context=True, **HELLO)
    assert_error(await ask(client, "one-more", wait=0, context=True, **HELLO), 429, "quota_exceeded")


async def test_a_key_may_build_of_what_it_may_pull_alone(bay: World) -> None:
    other = await bay.client("other", "write")
    made = await build(other, **HELLO)
    assert (made["state"], made["error"]["code"]) == ("failed", "forbidden")


async def test_another_owner_sees_neither_the_log_nor_sends_a_context(
    bay: World, client: httpx.AsyncClient
) -> None:
    made = await build(client, wait=0, context=True, shared=True, **HELLO)
    other = await bay.client("other", "write")
    assert_error(await other.get(f"/v1/templates/{made['id']}/log"), 404, "not_found")
    answer = await other.put(f"/v1/templates/{made['id']}/context", content=tar_of(a="1"))
    assert_error(answer, 403, "forbidden")
    reader = await bay.client("root", "read")
    assert_error(await reader.put(f"/v1/templates/{made['id']}/context", content=b""), 403, "forbidden")


async def test_a_template_that_was_frozen_has_no_log(client: httpx.AsyncClient) -> None:
    box = await client.post(
        "/v1/sandboxes", json={"image": "debian:13", "profile": "machine"}, params={"wait": 10}
    )
    made = await build(client, sandbox=box.json()["id"])
    assert_error(await client.get(f"/v1/templates/{made['id']}/log"), 404, "not_found")


async def test_the_arguments_of_a_build_are_not_kept_once_it_has_ended(
    bay: World, client: httpx.AsyncClient
) -> None:
    made = await build(client, dockerfile="FROM debian:13\nARG A\nRUN true", args={"A": "private"})
    assert made["state"] == "ready"
    async with bay.bay.store.read() as db:
        record = await templates.get(db, made["id"])
    assert record is not None
    assert record.build is None


async def test_a_build_of_a_key_that_was_revoked_does_not_begin(
    bay: World, client: httpx.AsyncClient
) -> None:
    answer = await client.post("/v1/keys", json={"name": "leaked", "owner": "root", "scope": "admin"})
    key = answer.json()
    leaked = await bay.open_client({"Authorization": f"Bearer {key['secret']}"})
    made = await build(leaked, wait=0, context=True, **HELLO)
    assert (await client.delete(f"/v1/keys/{key['id']}")).status_code == 204
    assert (await client.put(f"/v1/templates/{made['id']}/context", content=tar_of(a="1"))).is_success
    ended = (await client.get(f"/v1/templates/{made['id']}", params={"wait": 20})).json()
    assert (ended["state"], ended["error"]["code"]) == ("failed", "unauthorized")


async def test_logs_of_an_owner_are_bounded_and_the_oldest_go(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, bay: World
) -> None:
    monkeypatch.setattr(files, "MAX_LOGS", 100)
    first, second = await build(client, "one", **HELLO), await build(client, "two", **HELLO)
    await bay.bay.template_maker.builds.collect()
    assert await log_of(client, second["id"]) != ""
    assert await log_of(client, first["id"]) == ""


async def test_a_sandbox_that_a_build_left_is_removed_and_no_other(
    bay: World, client: httpx.AsyncClient
) -> None:
    made = await build(client, **HELLO)
    kept: list[str] = []
    for value in ("web", "tmpl-not-there", made["id"]):
        body = {"image": "debian:13", "profile": "machine", "labels": {"bay.build": value}}
        kept.append((await client.post("/v1/sandboxes", json=body, params={"wait": 10})).json()["id"])
    await bay.bay.template_maker.builds.collect()
    assert [box["id"] for box in await boxes(client)] == kept[:2]


async def test_snapshots_after_steps_go_by_age_number_and_size(bay: World) -> None:
    now = bay.clock()
    async with bay.bay.store.write() as db:
        for number in range(6):
            record = CheckpointRecord(
                id=f"ckpt-{number}", owner="a" if number < 5 else "b", sandbox_id=f"ckpt-{number}", name=None,
                comment=None, hidden=True, persist="machine", image="x", parent_id=None, state="ready",
                build_key=str(number), used_at=now - timedelta(hours=number), size_bytes=10, created_at=now,
            )  # fmt: skip
            await checkpoints.add(db, record)
    async with bay.bay.store.read() as db:
        far = now - timedelta(days=1)
        assert await checkpoints.stale_steps(db, far, 100, 1000) == []
        assert await checkpoints.stale_steps(db, now - timedelta(hours=3.5), 100, 1000) == [
            "ckpt-4",
            "ckpt-5",
        ]
        assert await checkpoints.stale_steps(db, far, 3, 1000) == ["ckpt-3", "ckpt-4"]
        assert await checkpoints.stale_steps(db, far, 100, 20) == ["ckpt-2", "ckpt-3", "ckpt-4"]


async def test_a_context_that_is_gone_or_half_there_fails_the_build_in_words_and_leaves_nothing(
    bay: World, client: httpx.AsyncClient, root: Path
) -> None:
    made = await build(client, wait=0, context=True, **HELLO)
    place = root / "data" / "builds" / made["id"]

    await client.put(f"/v1/templates/{made['id']}/context", content=b"no tar" * 200)
    (place / "context.0a1b2c3d").write_bytes(b"what a killed Bay had")
    async with bay.bay.store.write() as db:
        row = await templates.get(db, made["id"])
        assert row is not None
        assert row.build is not None
        await templates.change(db, made["id"], build={**row.build, "context": "here"})
    bay.bay.template_maker.poke()
    ended = (await client.get(f"/v1/templates/{made['id']}", params={"wait": 20})).json()
    assert ended["error"]["message"] == "the context of the build is gone; build again"
    assert "failed: the context of the build is gone" in await log_of(client, made["id"])
    assert sorted(path.name for path in place.iterdir()) == ["log"]
