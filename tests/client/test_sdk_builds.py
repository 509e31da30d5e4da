"""Builds by the SDK on a server that is played."""

from pathlib import Path

import httpx
import pytest

import bay

pytestmark = pytest.mark.pure

TEMPLATE = {
    "id": "tpl-1", "name": "app", "tag": "1", "state": "building", "shared": False, "profile": "p",
    "created_at": "2030-01-01T00:00:00Z",
}  # fmt: skip


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text("FROM debian:13\n")
    return tmp_path


class Server:
    """Has one template that is built, and the requests that came."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.seen.append((request.method, request.url.path))
        if request.url.path.endswith("/log"):
            return httpx.Response(200, content=b"STEP 1\n")
        return httpx.Response(200, json=TEMPLATE)


class Listener:
    """A `log` that fails with the error that it is given."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.parts: list[str] = []

    def __call__(self, part: str) -> None:
        self.parts.append(part)
        raise self.error


ERRORS = [bay.ConnectionFailed("the log's own connection broke"), bay.NotFound("not here"), ValueError("no")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_log_that_raises_is_told_and_cancels_the_build(context: Path, error: Exception) -> None:
    server, listener = Server(), Listener(error)
    client = bay.Client("http://bay.test", "k", transport=httpx.MockTransport(server.answer), retry_s=0.2)
    with client, pytest.raises(type(error)) as raised:
        client.templates.build(context, "app:1", log=listener)
    assert raised.value is error
    assert listener.parts == ["STEP 1\n"]
    assert server.seen[-1] == ("DELETE", "/v1/templates/tpl-1")


@pytest.mark.anyio
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_a_log_that_raises_cancels_the_build_in_a_loop_too(context: Path, error: Exception) -> None:
    server, listener = Server(), Listener(error)
    transport = httpx.MockTransport(server.answer)
    async with bay.AsyncClient("http://bay.test", "k", transport=transport, retry_s=0.2) as client:
        with pytest.raises(type(error)):
            await client.templates.build(context, "app:1", log=listener)
    assert listener.parts == ["STEP 1\n"]
    assert server.seen[-1] == ("DELETE", "/v1/templates/tpl-1")
