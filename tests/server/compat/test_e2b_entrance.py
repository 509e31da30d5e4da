"""The entrance to the planes of E2B's sandboxes: who is led where, and whose token opens what."""

import json
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

import httpx
import pytest
from envd_calls import signed_query
from server_harness import World, clear, create, world

from bay.server.compat.e2b.sandbox_words import OPTIONS, E2bOptions
from bay.server.sandboxes.service import SandboxChanges
from bay.store import sandboxes

pytestmark = pytest.mark.anyio

GONE = "The sandbox was not found"


@dataclass(frozen=True, slots=True)
class Guest:
    """A running sandbox of alice, and a client without any key."""

    bay: World
    http: httpx.AsyncClient
    alice: httpx.AsyncClient
    key_id: str
    id: str

    def token(self, kind: Literal["envd", "traffic"] = "envd", key_id: str | None = None) -> str:
        return self.bay.bay.sandbox_tokens.token(kind, self.id, "alice", key_id or self.key_id)

    def signed(self, path: str, *, operation: str = "read", until: int | None = None) -> dict[str, str]:
        return signed_query(self.token(), path, operation=operation, until=until)


@pytest.fixture
async def guest(tmp_path: Path) -> AsyncGenerator[Guest]:
    async with world(tmp_path) as bay:
        key = await bay.key("alice")
        alice = await bay.open_client({"Authorization": f"Bearer {key}", "X-API-Key": key})
        made = await create(alice, ttl=1000, wait=15)
        key_id = bay.bay.keys.authenticate(f"Bearer {key}").key_id
        yield Guest(bay, await bay.open_client(), alice, key_id, made["id"])
    await clear(tmp_path)


def headers_for(sandbox: str, port: int = 49983, more: dict[str, str] | None = None) -> dict[str, str]:
    return {"E2b-Sandbox-Id": sandbox, "E2b-Sandbox-Port": str(port), **(more or {})}


async def test_health_says_without_a_token_what_runs(guest: Guest) -> None:
    assert (await guest.http.get("/health", headers=headers_for(guest.id))).status_code == 204
    assert (await guest.http.get("/health", headers=headers_for(guest.id, 49999))).status_code == 200
    never = await guest.http.get("/health", headers=headers_for("sandbox-0123456789abcdef01234567"))
    assert (never.status_code, never.json()["message"]) == (502, GONE)


async def test_the_host_names_the_sandbox_as_well(guest: Guest) -> None:
    at_host = await guest.http.get("/health", headers={"Host": f"49983-{guest.id}.localhost:8700"})
    assert at_host.status_code == 204
    shouted = await guest.http.get("/health", headers={"Host": f"49983-{guest.id.upper()}.LOCALHOST"})
    assert shouted.status_code == 204


async def test_a_paused_and_a_deleted_sandbox_are_not_found_on_every_route(guest: Guest) -> None:
    token = {"X-Access-Token": guest.token()}
    assert (await guest.alice.post(f"/v1/sandboxes/{guest.id}/pause")).status_code == 200
    for path in ("/health", "/files", "/process.Process/List", "/nowhere"):
        answer = await guest.http.get(path, headers=headers_for(guest.id, more=token))
        assert (answer.status_code, answer.json()) == (
            502,
            {"sandboxId": guest.id, "message": GONE, "code": 502},
        ), path
    assert (await guest.alice.post(f"/v1/sandboxes/{guest.id}/resume")).status_code == 200
    assert (await guest.http.get("/health", headers=headers_for(guest.id))).status_code == 204
    assert (await guest.alice.delete(f"/v1/sandboxes/{guest.id}")).status_code == 204
    answer = await guest.http.get("/nowhere", headers=headers_for(guest.id, more=token))
    assert (answer.status_code, answer.json()["message"]) == (502, GONE)


async def test_a_sandbox_that_is_frozen_for_being_idle_is_running_to_its_clients(guest: Guest) -> None:
    idle = (await create(guest.alice, profile="forever", wait=15))["id"]
    guest.bay.clock.advance(101)
    await guest.bay.settled(idle, lambda record: record.phase == "paused")
    assert (await guest.http.get("/health", headers=headers_for(idle))).status_code == 204


@pytest.mark.parametrize("plane", ["envd", "interpreter"])
async def test_a_plane_opens_to_its_own_tokens_alone(guest: Guest, plane: str) -> None:
    other = (await create(guest.alice, ttl=1000, wait=15))["id"]
    port = {"envd": 49983, "interpreter": 49999}[plane]

    async def status(**given: str) -> int:
        named = {name.replace("_", "-"): value for name, value in given.items()}
        by_header = await guest.http.get("/nowhere", headers=headers_for(guest.id, port, named))
        by_path = await guest.http.get(f"/e2b/sandboxes/{guest.id}/{plane}/nowhere", headers=named)
        assert by_header.status_code == by_path.status_code
        return by_path.status_code

    tokens = guest.bay.bay.sandbox_tokens
    assert await status(X_Access_Token=guest.token()) == 404  # let in, and there is no such route
    is_let_in = await status(E2b_Traffic_Access_Token=guest.token("traffic")) == 404
    assert is_let_in == (plane == "interpreter")
    for wrong in (
        "",
        "x" * 5000,
        guest.token()[:-1],
        guest.token("traffic"),
        tokens.token("envd", other, "alice", guest.key_id),
        tokens.token("envd", guest.id, "bob", guest.key_id),
        tokens.token("envd", guest.id, "alice", "key-000000000000000000000000"),
    ):
        assert await status(X_Access_Token=wrong) == 401, wrong
    key = guest.alice.headers["X-API-Key"]
    assert await status(Authorization=f"Bearer {key}") == 401
    by_key = {"X-API-Key": key}
    answer = await guest.http.get("/nowhere", headers=headers_for(guest.id, port, by_key))
    assert answer.status_code == 401  # beside a sandbox's name a key is nothing; the path alone it opens
    answer = await guest.http.get(f"/e2b/sandboxes/{guest.id}/{plane}/nowhere", headers=by_key)
    assert answer.status_code == 404


async def test_a_token_ends_with_the_key_that_it_was_made_with(guest: Guest) -> None:
    token = headers_for(guest.id, more={"X-Access-Token": guest.token()})
    assert (await guest.http.get("/nowhere", headers=token)).status_code == 404
    admin = await guest.bay.client("root", "admin")
    assert (await admin.delete(f"/v1/keys/{guest.key_id}")).status_code == 204
    assert (await guest.http.get("/nowhere", headers=token)).status_code == 401
    signed = await guest.http.get("/files", params=guest.signed("/a"), headers=headers_for(guest.id))
    assert signed.status_code == 401


async def test_a_signature_opens_one_path_for_one_act_until_it_expires(guest: Guest) -> None:
    async def ask(query: dict[str, str], method: str = "GET") -> tuple[int, str]:
        answer = await guest.http.request(method, "/files", params=query, headers=headers_for(guest.id))
        return answer.status_code, answer.json().get("message", "")

    good = guest.signed("/srv/a b")
    assert (await ask(good))[0] not in (401, 502)
    assert (await ask(guest.signed("/x", until=int(time.time()) + 100)))[0] not in (401, 502)
    assert await ask({"path": "/x"}) == (401, "missing signature query parameter")
    assert await ask({**good, "path": "/etc/passwd"}) == (401, "invalid signature")
    assert await ask({**good, "username": "root"}) == (401, "invalid signature")
    assert await ask({**good, "signature_expiration": "99999999999"}) == (401, "invalid signature")
    assert await ask(good, "POST") == (401, "invalid signature")
    assert await ask(guest.signed("/x", until=5)) == (401, "signature is already expired")
    just_over = int(time.time()) - 1
    assert await ask(guest.signed("/x", until=just_over)) == (401, "signature is already expired")


@pytest.mark.parametrize("named", [True, False], ids=["by headers", "at the bare host"])
async def test_a_signed_url_with_anything_beside_what_was_signed_is_refused(
    guest: Guest, *, named: bool
) -> None:
    labels = E2bOptions().label()  # without its name, the sandbox is found by this
    assert (await guest.alice.patch(f"/v1/sandboxes/{guest.id}", json={"labels": labels})).status_code == 200
    headers = headers_for(guest.id) if named else {}
    for method, operation in (("GET", "read"), ("POST", "write")):
        query = urlencode(guest.signed("/srv/a", operation=operation))
        assert (await guest.http.request(method, f"/files?{query}", headers=headers)).status_code not in (
            401,
            502,
        )
        for more in (
            *("path=/etc/shadow", "username=root", "%70ath=/etc/shadow", "signature=x"),
            *("operation=write", "user=root", "a"),
        ):
            for sent in (f"{query}&{more}", f"{more}&{query}"):
                answer = await guest.http.request(method, f"/files?{sent}", headers=headers)
                # `username` once is no repetition: it is another user than the one that was signed.
                assert answer.status_code == (401 if more == "username=root" else 400), (sent, answer.text)


async def test_a_path_with_colons_is_never_read_as_an_act_and_a_user(guest: Guest) -> None:
    # The digest of both is that of `a:read:b:write::…`.
    query = {**guest.signed("a:read:b", operation="write"), "path": "a", "username": "b:write:"}
    answer = await guest.http.get("/files", params=query, headers=headers_for(guest.id))
    assert (answer.status_code, answer.json()["message"]) == (
        400,
        "username has a colon, which no user's name has",
    )


async def test_a_token_is_sealed_once_however_many_signatures_are_tried(guest: Guest) -> None:
    made = guest.token()
    assert (await guest.http.get("/files", params=guest.signed("/a"), headers=headers_for(guest.id))).is_error
    assert guest.token() is made


async def test_a_signed_url_that_is_none_is_refused_as_any_other_request(guest: Guest) -> None:
    many = "signature=v1_x" + "&a=1" * 40
    for headers in ({}, headers_for(guest.id)):
        assert (await guest.http.get(f"/files?{many}", headers=headers)).status_code == 400
    forever = guest.signed("/x", until=int("9" * 4000))
    assert (await guest.http.get("/files", params=forever, headers=headers_for(guest.id))).status_code == 401


async def test_the_sandbox_of_a_signed_url_without_its_name_is_looked_for_among_the_newest(
    guest: Guest,
) -> None:
    signed = guest.signed("/srv/a b")
    assert (await guest.http.get("/files", params=signed)).status_code == 401  # no client of E2B made it
    labels = E2bOptions().label()
    assert (await guest.alice.patch(f"/v1/sandboxes/{guest.id}", json={"labels": labels})).status_code == 200
    assert (await guest.http.get("/files", params=signed)).status_code not in (401, 502)
    newest = (await create(guest.alice, labels=labels))["id"]
    async with guest.bay.bay.store.read() as db:
        assert await sandboxes.newest_with_label(db, OPTIONS, 1) == [(newest, "alice")]
        both = [(newest, "alice"), (guest.id, "alice")]
        assert await sandboxes.newest_with_label(db, OPTIONS, 5) == both


async def test_a_websocket_at_a_signed_url_is_refused_as_any_other(guest: Guest) -> None:
    await guest.bay.bay.sandboxes.update(
        guest.bay.bay.keys.authenticate(guest.alice.headers["Authorization"]), guest.id,
        SandboxChanges(given=frozenset(("labels",)), labels=E2bOptions(resume=True).label()),
    )  # fmt: skip
    assert (await guest.alice.post(f"/v1/sandboxes/{guest.id}/pause")).status_code == 200
    for path in ("/files", f"/e2b/sandboxes/{guest.id}/envd/files"):
        assert await websocket_status(guest.bay, path, b"signature=v1_x") in (401, 404)


async def test_a_label_that_its_owner_wrote_cannot_fail_the_entrance(guest: Guest) -> None:
    labels = {OPTIONS: json.dumps({"timeout": 10**100, "resume": True})}
    assert (await guest.alice.patch(f"/v1/sandboxes/{guest.id}", json={"labels": labels})).status_code == 200
    assert (await guest.alice.post(f"/v1/sandboxes/{guest.id}/pause")).status_code == 200
    token = headers_for(guest.id, more={"X-Access-Token": guest.token()})
    assert (await guest.http.get("/nowhere", headers=token)).status_code == 404  # it runs again


async def websocket_status(bay: World, path: str, query: bytes) -> int:
    """The status of the answer that refuses a WebSocket."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"bay")]
    scope: dict[str, Any] = {"type": "websocket", "path": path, "headers": headers, "query_string": query}
    await bay.app(scope, receive, send)
    return sent[0]["status"]


async def test_of_two_names_in_one_request_none_is_taken(guest: Guest) -> None:
    other = (await create(guest.alice, ttl=1000, wait=15))["id"]
    twice = [*headers_for(guest.id).items(), ("E2b-Sandbox-Id", other)]
    assert (await guest.http.get("/health", headers=twice)).status_code == 400
    both = {**headers_for(other), "Host": f"49983-{guest.id}.localhost"}
    assert (await guest.http.get("/health", headers=both)).status_code == 400
    same = {**headers_for(guest.id), "Host": f"49983-{guest.id}.localhost"}
    assert (await guest.http.get("/health", headers=same)).status_code == 204


@pytest.mark.parametrize(
    "name", ["../v1", "a/b", "%2e%2e", "none", "alices-box", "SANDBOX", "a?b", "x" * 9000]
)
async def test_a_name_that_is_no_id_is_no_sandbox(guest: Guest, name: str) -> None:
    answer = await guest.http.get("/health", headers=headers_for(name))
    assert (answer.status_code, answer.json()["message"]) == (502, GONE)
    upper = await guest.http.get("/health", headers=headers_for(guest.id.upper()))
    assert upper.status_code == 502


async def test_a_foreign_host_with_the_headers_is_refused_as_without_them(guest: Guest) -> None:
    answer = await guest.http.get("/health", headers={**headers_for(guest.id), "Host": "evil.example.com"})
    assert answer.status_code == 400


async def test_escapes_in_a_path_lead_around_no_token(guest: Guest) -> None:
    for path in (
        f"/e2b/sandboxes/{guest.id}/%65nvd/process.Process/List",
        f"/e2b/sandboxes/{guest.id}%2fenvd%2fprocess.Process/List",
        f"/e2b/sandboxes/{guest.id}/envd//process.Process/List",
        f"/e2b//sandboxes/{guest.id}/envd/process.Process/List",
        f"/e2b/sandboxes/{guest.id}/envd/health/",
        f"/e2b/sandboxes/{guest.id}/envd/health/../process.Process/List",
    ):
        assert (await guest.http.get(path)).status_code == 401, path


async def test_a_sandbox_named_api_does_not_get_the_host_of_the_api(guest: Guest) -> None:
    await create(guest.alice, name="api")
    answer = await guest.http.get("/sandboxes/x", headers={"Host": "api.localhost:8700", "X-API-Key": "no"})
    assert (answer.status_code, answer.json()["code"]) == (401, 401)
