"""`WS …/terminal` and `GET …/screen`: a shell in one call, and the same shell again with its screen."""

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from attaching import attached, refused
from server_harness import Json, Served, create, eventually

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(live: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=20) as client:
        yield client


@pytest.fixture
async def box(client: httpx.AsyncClient) -> str:
    return (await create(client))["id"]


async def screen(client: httpx.AsyncClient, box: str, exec_id: str, **params: Any) -> Json:
    answer = await client.get(f"/v1/sandboxes/{box}/execs/{exec_id}/screen", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_terminal_is_a_login_shell_of_the_size_that_was_asked_for(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    async with attached(live, f"{box}/terminal?rows=30&cols=100") as one:
        made = one.first["exec"]
        assert (made["tty"], made["keep_alive"], made["rows"], made["cols"]) == (True, False, 30, 100)
        await one.write(b"stty size; tty; shopt -q login_shell && echo log''in $TERM\n")
        seen = await one.until(b"login xterm-256color")
        assert b"30 100" in seen
        assert b"/dev/pts/" in seen
        await one.tell(type="resize", rows=31, cols=101)
        await one.write(b"stty size\n")
        await one.until(b"31 101")
        await one.write(b"exit 7\n")
        await one.rest()
    assert one.exit is not None
    assert (one.exit["exit_code"], one.exit["state"]) == (7, "exited")
    assert one.closed[0] == 1000


async def test_a_shell_whose_client_is_refused_does_not_stay(
    live: Served, client: httpx.AsyncClient, box: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bay.server.web.open_connections.LIMIT", 0)
    status, error = await refused(live, f"{box}/terminal")
    assert (status, error["code"]) == (429, "quota_exceeded")
    [made] = (await client.get(f"/v1/sandboxes/{box}/execs")).json()["items"]
    assert made["state"] != "running"


async def test_whoever_comes_back_without_a_size_leaves_the_terminal_its_own(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    async with attached(live, f"{box}/terminal?rows=30&cols=100") as one:
        made = one.first["exec"]["id"]
        async with attached(live, f"{box}/terminal?exec={made}") as back:
            assert (back.first["exec"]["rows"], back.first["exec"]["cols"]) == (30, 100)


async def test_whoever_comes_back_finds_the_shell_with_its_screen(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    async with attached(live, f"{box}/terminal") as one:
        made = one.first["exec"]["id"]
        await one.write(b"kept=yes; seq 100; printf '\\033[31mre''d\\033[0m'; echo\n")
        await one.until(b"red")
    async with attached(live, f"{box}/terminal?exec={made}&rows=10&cols=40") as back:
        assert back.first["exec"]["id"] == made
        await back.write(b"echo kept=$kept; stty size\n")
        seen = await back.until(b"10 40")
        assert b"kept=yes" in seen
        assert b"red" in back.screen
        assert b"\x1b[" in back.screen
        assert b"\n50\r" in back.screen  # before it, what had left it
    async with attached(live, f"{box}/execs/{made}/attach?since=0") as raw:
        assert raw.first["next_offset"] == 0
        assert raw.screen == b""
        assert b"50\r\n51\r\n" in await raw.until(b"10 40")


async def test_a_shell_that_has_ended_is_shown_once_more(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    async with attached(live, f"{box}/terminal") as one:
        made = one.first["exec"]["id"]
        await one.write(b"echo by''e; exit 3\n")
        await one.rest()
    async with attached(live, f"{box}/terminal?exec={made}") as back:
        assert await back.rest() == b""
        assert b"bye" in back.screen
    assert back.exit is not None
    assert back.exit["exit_code"] == 3


async def test_the_screen_can_be_read_as_text_with_what_has_left_it(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    body = {"argv": ["sh", "-c", "seq 100; printf 'wide: 你好'; read x"], "tty": True, "rows": 5, "cols": 20}
    made = (await client.post(f"/v1/sandboxes/{box}/execs", json=body)).json()["id"]

    async def is_drawn() -> bool:
        return (await screen(client, box, made))["lines"][-1] == "wide: 你好"

    await eventually(is_drawn)
    found = await screen(client, box, made, scrollback=3)
    assert (found["rows"], found["cols"]) == (5, 20)
    assert found["lines"] == ["97", "98", "99", "100", "wide: 你好"]
    assert found["scrollback"] == ["94", "95", "96"]
    assert (found["cursor_row"], found["cursor_col"]) == (4, 10)
    assert found["offset"] == (await client.get(f"/v1/sandboxes/{box}/execs/{made}")).json()["output_bytes"]


async def test_a_terminal_under_a_flood_still_opens_and_still_takes_an_interrupt(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    async with attached(live, f"{box}/terminal") as one:
        made = one.first["exec"]["id"]
        await one.write(b"echo begin; base64 /dev/urandom\n")
        await one.until(b"begin\r\n")
    async with attached(live, f"{box}/terminal?exec={made}") as back:
        await back.write(b"\x03")
        await back.write(b"echo still ''here\n")
        await back.until(b"still here")


async def test_a_terminal_that_cannot_be_is_refused(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    plain = await client.post(f"/v1/sandboxes/{box}/execs", json={"command": "sleep 1000"})
    made = plain.json()["id"]
    assert (await refused(live, f"{box}/terminal?exec={made}"))[0] in (400, 409)
    assert (await refused(live, f"{box}/terminal?exec=exec-{'0' * 24}"))[0] == 404
    assert (await refused(live, f"{box}/terminal?rows=0"))[0] == 422
    assert (await refused(live, f"{box}/terminal?cols=1001"))[0] == 422
    answer = await client.get(f"/v1/sandboxes/{box}/execs/{made}/screen")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "validation_error")
    bare = (await create(client, profile="bare"))["id"]
    status, error = await refused(live, f"{bare}/terminal")
    assert (status, error["code"]) == (400, "capability_not_supported")
