"""What saves a program lines: sandboxes by name, blocks that delete, requests to apps, waiting until
something is ready.
"""

import io
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import bay

APP = """
import http.server
class App(http.server.BaseHTTPRequestHandler):
    def answer(self):
        size = int(self.headers.get("Content-Length") or 0)
        said = f"{self.command} {self.path} {self.rfile.read(size).decode()} {self.headers.get('Authorization')}".encode()
        self.send_response(404 if self.path.startswith("/none") else 200)
        self.send_header("Content-Length", str(len(said)))
        self.send_header("X-Said", self.headers.get("X-Say", ""))
        self.end_headers()
        self.wfile.write(said)
    do_GET = do_POST = answer
http.server.HTTPServer(("127.0.0.1", PORT), App).serve_forever()
"""


@pytest.fixture(scope="module")
def box(client: bay.Client) -> Iterator[bay.Box]:
    with client.sandbox() as made:
        yield made


def is_gone(client: bay.Client, box: bay.Box) -> bool:
    try:
        client.sandboxes.get(box.id)
    except bay.NotFound:
        return True
    return False


def test_one_of_many_who_ask_for_a_name_makes_it(client: bay.Client) -> None:
    def ask(_: int) -> bay.Box:
        return client.sandboxes.get_or_create("shared", wait=30)

    with ThreadPoolExecutor(8) as pool:
        boxes = list(pool.map(ask, range(8)))
    with boxes[0]:
        assert {box.id for box in boxes} == {boxes[0].id}
        assert boxes[-1].info.status == "ready"


def test_what_exists_is_given_as_it_is(client: bay.Client) -> None:
    with client.sandboxes.create(name="there", labels={"a": "b"}) as made:
        again = client.sandboxes.create(name="there", exist_ok=True, labels={"c": "d"})
        assert (again.id, again.info.labels) == (made.id, {"a": "b"})
        with pytest.raises(bay.Conflict, match="you have a sandbox named there"):
            client.sandboxes.create(name="there")
    with pytest.raises(bay.InvalidArgument, match="exist_ok needs a name"):
        client.sandboxes.create(exist_ok=True)


def test_a_block_does_not_delete_a_sandbox_that_was_there(client: bay.Client) -> None:
    with client.sandboxes.create(name="mine") as made:
        with (
            pytest.raises(bay.InvalidArgument, match="get_or_create"),
            client.sandbox(name="mine", exist_ok=True),
        ):
            pass
        assert not is_gone(client, made)


def test_a_sandbox_that_has_expired_gives_its_name_back(client: bay.Client) -> None:
    old = client.sandboxes.create(name="short", ttl=1)
    for event in old.events():
        if event.type == "sandbox.expired" or event.data.get("reason") == "expired":
            break
    with client.sandboxes.get_or_create("short") as new:
        assert new.id != old.id
        assert is_gone(client, old)


def test_a_box_and_its_forks_are_deleted_at_the_end_of_their_block(client: bay.Client, box: bay.Box) -> None:
    box.files.write("a.txt", "here")
    with box.fork(2) as forks:
        assert [fork.files.read_text("a.txt") for fork in forks] == ["here", "here"]
    assert all(is_gone(client, fork) for fork in forks)
    with pytest.raises(ZeroDivisionError), box.fork() as (fork,):
        raise ZeroDivisionError
    assert is_gone(client, fork)
    with client.sandboxes.create() as made:
        assert made.run("echo hi").stdout == "hi\n"
    assert is_gone(client, made)


@pytest.mark.anyio
async def test_async_boxes_too(served: tuple[str, str]) -> None:
    async with bay.AsyncClient(*served) as client, client.sandbox() as box:
        async with await box.fork(2) as forks:
            assert [(await fork.run("echo hi")).stdout for fork in forks] == ["hi\n"] * 2
        assert [
            found.id async for found in client.sandboxes.list() if found.id in {f.id for f in forks}
        ] == []


def test_fetch_asks_an_app_with_the_key_and_the_app_sees_none(box: bay.Box) -> None:
    port = free_port(box)
    proc = box.spawn(["python3", "-c", APP.replace("PORT", str(port))])
    assert box.wait_for(port, timeout_s=30).port == port
    found = box.fetch(port, "/a/b?x=1&y=%20")
    assert (found.status_code, found.text) == (200, "GET /a/b?x=1&y=%20  None")
    posted = box.fetch(port, "/p", method="POST", json={"a": 1}, headers={"X-Say": "hello"})
    assert (posted.text, posted.headers["x-said"]) == ('POST /p {"a": 1} None', "hello")
    assert box.fetch(port, "p", method="POST", content="text").text == "POST /p text None"
    assert box.fetch(port, "/none").status_code == 404
    proc.kill()


def test_fetch_never_leaves_the_app(box: bay.Box) -> None:
    for path in ("/../../..", "/%2e%2e/x", "a/./b", "..", "/a/%2E%2e?x"):
        with pytest.raises(bay.InvalidArgument, match="segment"):
            box.fetch(80, path)


def test_what_bay_says_in_an_apps_place_is_raised(client: bay.Client) -> None:
    with client.sandboxes.create() as box:
        box.delete()
        with pytest.raises(bay.NotFound, match="there is no sandbox"):
            box.fetch(8000)


def test_waiting_for_a_port_ends(box: bay.Box) -> None:
    with pytest.raises(bay.Timeout, match="nothing listens on port 9 after"):
        box.wait_for(9, timeout_s=0.3)


def test_a_service_is_waited_for_until_it_is_ready(box: bay.Box) -> None:
    port = free_port(box)
    argv = ("python3", "-c", APP.replace("PORT", str(port)))
    health = bay.ServiceHealth(port=port, path="/", interval_s=0.2)
    web = bay.ServiceSpec(name="web", argv=argv, http_port=port, health=health)
    assert box.services.put(web, wait=30).healthy is True
    assert box.fetch(port).status_code == 200
    box.services.delete("web")
    # With a port to listen on they are not ready while they run.
    once = bay.ServiceSpec(name="once", argv=("true",), http_port=port, restart="never")
    assert box.services.put(once, wait=30).exit_code == 0
    bad = bay.ServiceSpec(name="bad", argv=("false",), http_port=port, restart="never")
    with pytest.raises(bay.Conflict, match="the service bad does not run"):
        box.services.put(bad, wait=30)


def free_port(box: bay.Box) -> int:
    code = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); print(s.getsockname()[1])"
    return int(box.run(["python3", "-c", code]).stdout)


def test_a_tar_goes_in_and_comes_out_as_bytes(box: bay.Box, tmp_path: Path) -> None:
    box.files.write("packed/deep/a.txt", "hello")
    for gzip in (False, True):
        data = box.files.read_archive("packed", gzip=gzip)
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz" if gzip else "r:") as tar:
            assert any(name.endswith("deep/a.txt") for name in tar.getnames())
        assert box.files.write_archive(data, f"unpacked-{gzip}", gzip=gzip) == 5
        assert [info.path for info in box.files.glob("**/a.txt", f"unpacked-{gzip}")]
    local = tmp_path / "a.tar"
    local.write_bytes(box.files.read_archive("packed"))
    with local.open("rb") as file:
        assert box.files.write_archive(file, "from-file") == 5
    with pytest.raises(bay.InvalidArgument):
        box.files.write_archive(b"no tar at all", "bad")
