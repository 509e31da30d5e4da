"""A body costs the server about what its size says, whatever is in it: counted in processor time beside a
small one.
"""

import asyncio
import json
import re
import time
from typing import Any

import httpx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from server_harness import Json, assert_error, create

from bay.server.web.large_bodies import LARGE, LargeBodies, has_more_pieces

pytestmark = pytest.mark.anyio

MIB = 1 << 20
POLICY = "/v1/sandboxes/none/network-policy"
HEADERS = {"Content-Type": "application/json"}

BODIES: dict[str, tuple[str, str, Any]] = {
    "rules": ("PUT", POLICY, {"mode": "open", "rules": [{"action": "x"}] * 65_000}),
    "rules within the bound": ("PUT", POLICY, {"mode": "open", "rules": [{"action": "x"}] * 10_000}),
    "ports": ("PUT", POLICY, {"mode": "open", "rules": [{"action": "allow", "ports": [None] * 64}] * 2500}),
    "labels": ("POST", "/v1/sandboxes", {"labels": {f"l{n}": n for n in range(60_000)}}),
    "env": ("POST", "/v1/sandboxes", {"env": {f"l{n}": n for n in range(60_000)}}),
    "fields": ("POST", "/v1/sandboxes", {f"l{n}": n for n in range(60_000)}),
    "services": ("POST", "/v1/sandboxes", {"services": [{}] * 200_000}),
    "argv": ("PUT", "/v1/sandboxes/none/services/x", {"argv": [1] * 400_000}),
    "types": ("POST", "/v1/webhooks", {"url": "http://x", "types": [1] * 400_000}),
}


async def cost(
    client: httpx.AsyncClient, method: str, path: str, content: bytes
) -> tuple[httpx.Response, float]:
    """An answer, and the seconds of processor time that it took."""
    before = time.process_time()
    answer = await client.request(method, path, content=content, headers=HEADERS)
    return answer, time.process_time() - before


@pytest.mark.parametrize("what", BODIES)
async def test_a_wrong_body_costs_little_more_than_to_read_it(alice: httpx.AsyncClient, what: str) -> None:
    method, path, body = BODIES[what]
    content = json.dumps(body, separators=(",", ":")).encode()[: MIB + 1]
    assert len(content) <= MIB, what
    await cost(alice, method, path, content)
    reading = min(_reading(content) for _ in range(3))
    tries = [await cost(alice, method, path, content) for _ in range(3)]
    assert_error(tries[0][0], 422, "validation_error")
    assert len(tries[0][0].content) < 10_000
    assert len(tries[0][0].json()["detail"]) <= 20
    assert min(spent for _answer, spent in tries) < 0.05 + 5 * reading


def _reading(content: bytes) -> float:
    before = time.process_time()
    json.loads(content)
    return time.process_time() - before


async def test_an_error_lists_twenty_problems_and_says_how_many_there_are(alice: httpx.AsyncClient) -> None:
    answer = await alice.post("/v1/sandboxes", json={"env": {f"l{n}": n for n in range(200)}})
    error = assert_error(answer, 422, "validation_error")
    assert error["details"]["errors"] == 200
    assert len(answer.json()["detail"]) == 20


async def test_a_list_is_looked_at_up_to_its_first_wrong_item(alice: httpx.AsyncClient) -> None:
    rules: list[Json] = [{"action": "allow", "domain": "a.example"}] * 3 + [{"action": "x"}] * 100
    answer = await alice.put(POLICY, json={"mode": "open", "rules": rules})
    assert [d["loc"] for d in answer.json()["detail"]] == [["body", "rules", 3, "action"]]


async def test_bounds_are_in_the_words_of_the_api(alice: httpx.AsyncClient) -> None:
    answer = await alice.post("/v1/sandboxes", json={"labels": {f"l{n}": "x" for n in range(65)}})
    error = assert_error(answer, 422, "validation_error")
    assert error["message"] == "body.labels: must have 64 items or fewer, and has 65"


async def test_a_large_body_of_many_pieces_is_refused_before_it_is_parsed(alice: httpx.AsyncClient) -> None:
    box = (await create(alice))["id"]
    path = f"/v1/sandboxes/{box}/execs"
    bodies: list[Any] = [
        {"argv": ["true"], "env": {f"E{n}": "x" for n in range(1_000_000)}},
        {"argv": ["true"], "env": [1] * 7_000_000},
        [1] * 5_000_000,
    ]
    for body in bodies:
        content = json.dumps(body, separators=(",", ":")).encode()
        answer, spent = await cost(alice, "POST", path, content)
        assert_error(answer, 413, "payload_too_large")
        assert spent < 0.5  # to parse it takes seconds


@pytest.mark.parametrize("stdin", ["x" * (6 * MIB), 'a "b", [c], {d}\n' * (3 * MIB // 16), "\\" * (3 * MIB)])
async def test_a_large_body_of_few_pieces_is_taken(alice: httpx.AsyncClient, stdin: str) -> None:
    box = (await create(alice))["id"]
    made = await alice.post(
        f"/v1/sandboxes/{box}/execs", params={"wait": 20}, json={"argv": ["wc", "-c"], "stdin": stdin}
    )
    assert made.status_code == 201, made.text
    assert made.json()["stdout"].strip() == str(len(stdin))


async def test_large_bodies_of_one_owner_are_parsed_one_a_turn_of_the_loop() -> None:
    bodies, given, turn = LargeBodies(), list[tuple[str, int]](), 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b'"' + b"x" * LARGE + b'"'}

    async def parse(owner: str) -> None:
        await bodies.of(owner, receive)()
        given.append((owner, turn))

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for owner in ("alice", "alice", "alice", "bob"):
            group.create_task(parse(owner))
        while len(given) < 4:
            turn += 1
            await asyncio.sleep(0)
    turns = {owner: [at for name, at in given if name == owner] for owner in ("alice", "bob")}
    assert len(set(turns["alice"])) == 3
    assert turns["bob"][0] <= min(turns["alice"]) + 1  # another owner does not wait for them
    assert dict(bodies._turns) == {}


STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def pieces_of(text: str) -> int:
    """The rule by itself: strings, and marks of items outside of them, read from left to right."""
    place, outside, strings = 0, "", 0
    while (start := text.find('"', place)) >= 0:
        outside, strings = outside + text[place:start], strings + 1
        string = STRING.match(text, start)
        if string is None:
            return strings + sum(map(outside.count, ",[{"))
        place = string.end()
    return strings + 1 + sum(map((outside + text[place:]).count, ",[{"))


JSON_VALUES = st.recursive(
    st.none() | st.integers() | st.text('a"\\,[{\n'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text('b"\\,'), inner),
    max_leaves=30,
)
CUT_TEXTS = st.lists(st.sampled_from(['"', "a", ",", "[", "{", ":", '"x\\\\"', '"\\""', '"\\n']), max_size=40)


@settings(deadline=None)
@given(JSON_VALUES.map(json.dumps) | CUT_TEXTS.map("".join), st.integers(0, 40))
def test_pieces_are_counted_as_a_reader_of_the_text_would(text: str, most: int) -> None:
    assume("\\" not in STRING.sub("", text).partition('"')[0])  # it is no JSON, and a parser stops there
    assert has_more_pieces(text.encode(), most) == (pieces_of(text) > most)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
async def test_a_large_body_in_another_encoding_is_counted_too(
    alice: httpx.AsyncClient, encoding: str
) -> None:
    # Its bytes are not those of the marks: here a letter has the byte of a quotation mark.
    content = f'["\u0122",{"{}," * 1_000_000}1]'.encode(encoding)
    answer, spent = await cost(alice, "POST", "/v1/sandboxes/none/execs", content)
    assert_error(answer, 413, "payload_too_large")
    assert spent < 0.5
