"""A sandbox made by one API is the same sandbox through the others: one id, its execs, files, checkpoints
and policy.
"""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import ProfileSettings, World, clear, create, world

pytestmark = pytest.mark.anyio

_KIND = ProfileSettings.model_validate({"start": "lazy"})
_CHECKPOINTS = "/v1/sandboxes/{id}/checkpoints"


@dataclass(frozen=True, slots=True)
class Doors:
    """The three APIs, by clients with one key of alice's."""

    native: httpx.AsyncClient
    e2b: httpx.AsyncClient

    async def made(self, door: str) -> str:
        """A sandbox that this API made: its id."""
        match door:
            case "native":
                return (await create(self.native, name="box"))["id"]
            case "sprites":
                answer = await self.native.post("/v1/sprites", json={"name": "box"})
                key = "id"
            case _:
                answer = await self.e2b.post("/e2b/v2/sandboxes", json={"templateID": "base", "timeout": 300})
                key = "sandboxID"
        assert answer.status_code == 201, answer.text
        return answer.json()[key]

    async def envd(self, sandbox: str, path: str, **given: Any) -> httpx.Response:
        """A call of the sandbox's envd, with the token that the API gives."""
        shown = (await self.e2b.get(f"/e2b/sandboxes/{sandbox}")).json()
        headers = {
            "E2b-Sandbox-Id": sandbox, "E2b-Sandbox-Port": "49983", "X-Access-Token": shown["envdAccessToken"],
        }  # fmt: skip
        method = "GET" if path.startswith("/files") and "content" not in given else "POST"
        return await self.e2b.request(method, path, headers=headers | given.pop("headers", {}), **given)


@pytest.fixture
async def doors(tmp_path: Path) -> AsyncGenerator[Doors]:
    profiles = {"python-default": _KIND, "sprite": _KIND, "e2b": _KIND}
    async with world(tmp_path, profiles=profiles) as bay:
        yield await _doors(bay)
    await clear(tmp_path)


async def _doors(bay: World) -> Doors:
    return Doors(await bay.client(), await bay.open_client({"X-API-Key": await bay.key()}))


@pytest.mark.parametrize("door", ["native", "sprites", "e2b"])
async def test_a_sandbox_of_one_door_is_the_same_through_the_others(doors: Doors, door: str) -> None:
    made = await doors.made(door)
    native = (await doors.native.get(f"/v1/sandboxes/{made}")).json()
    assert (await doors.native.get(f"/v1/sprites/{made}")).json()["id"] == native["id"] == made
    assert (await doors.e2b.get(f"/e2b/sandboxes/{made}")).json()["sandboxID"] == made
    listed = (await doors.e2b.get("/e2b/v2/sandboxes")).json()
    assert [one["sandboxID"] for one in listed] == [made]
    assert (await doors.native.delete(f"/v1/sandboxes/{made}")).status_code == 204
    gone = [
        await doors.native.get(f"/v1/sandboxes/{made}"),
        await doors.native.get(f"/v1/sprites/{made}"),
        await doors.e2b.get(f"/e2b/sandboxes/{made}"),
    ]
    assert [answer.status_code for answer in gone] == [404, 404, 404]


@pytest.mark.parametrize("door", ["native", "sprites", "e2b"])
async def test_execs_files_checkpoints_and_the_policy_are_one(doors: Doors, door: str) -> None:
    made = await doors.made(door)
    native, sprite = f"/v1/sandboxes/{made}", f"/v1/sprites/{made}"

    # A file that each API wrote is read through the other two.
    octets = {"Content-Type": "application/octet-stream"}
    await doors.native.put(f"{native}/files/content", params={"path": "n"}, content=b"native")
    await doors.native.put(f"{sprite}/fs/write", params={"path": "s"}, content=b"sprite")
    sent = await doors.envd(made, "/files", params={"path": "e"}, content=b"e2b", headers=octets)
    assert sent.status_code == 200, sent.text
    for name, data in (("n", b"native"), ("s", b"sprite"), ("e", b"e2b")):
        where = {"path": name}
        assert (await doors.native.get(f"{native}/files/content", params=where)).content == data
        assert (await doors.native.get(f"{sprite}/fs/read", params=where)).content == data
        assert (await doors.envd(made, "/files", params=where)).content == data

    # An exec that runs is a session of Sprites and a process of E2B, with its id and pid.
    ran = (await doors.native.post(f"{native}/execs", json={"argv": ["sleep", "1000"]})).json()
    sessions = (await doors.native.get(f"{sprite}/exec")).json()["sessions"]
    assert [session["id"] for session in sessions] == [ran["id"]]
    processes = (await doors.envd(made, "/process.Process/List", json={})).json()["processes"]
    assert [process["pid"] for process in processes] == [ran["pid"]]

    # A checkpoint of one API is in the lists of the others.
    told = (await doors.native.post(f"{sprite}/checkpoint", json={"comment": "c"})).text
    assert json.loads(told.splitlines()[-1])["type"] == "complete", told
    first = (await doors.native.get(_CHECKPOINTS.format(id=made))).json()["items"]
    assert [one["comment"] for one in first] == ["c"]
    second = (await doors.native.post(_CHECKPOINTS.format(id=made), json={"comment": "d"})).json()
    shown = (await doors.native.get(f"{sprite}/checkpoints")).json()
    assert {one["id"] for one in shown if one["id"] != "Current"} == {"v1", "v2"}
    snapshots = (await doors.e2b.get("/e2b/snapshots", params={"sandboxID": made})).json()
    assert second["id"] in json.dumps(snapshots)

    # So is the policy.
    rules = {"rules": [{"domain": "example.com", "action": "allow"}]}
    assert (await doors.native.post(f"{sprite}/policy/network", json=rules)).status_code == 204
    policy = (await doors.native.get(f"{native}/network-policy")).json()
    assert (policy["mode"], policy["rules"][0]["domain"]) == ("allowlist", "example.com")

    # A signal by E2B ends the exec for all.
    selector = {"process": {"pid": ran["pid"]}, "signal": "SIGNAL_SIGKILL"}
    assert (await doors.envd(made, "/process.Process/SendSignal", json=selector)).status_code == 200
    ended = await doors.native.get(f"{native}/execs/{ran['id']}/output", params={"follow": "true"})
    assert "signal" in ended.text
