"""A registry that stalls, drips, lies, fails and redirects; and a Bay that is cancelled or killed then."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from fetchers import FIRST_ID, MakeFetcher, assert_nothing_left, fetcher_in, processes, ranges_in
from hostile_registry import HostileRegistry, Request, at, hostile
from image_files import ImageFile, as_json, digest_of, layer_of
from server_harness import until

from bay.errors import (
    BayError,
    ImageDenied,
    ImageInvalid,
    ImageNotFound,
    ImageTooLarge,
    RegistryUnavailable,
    StorageFull,
)
from bay.images.fetching import FetchLimits
from bay.images.references import parse
from bay.images.registries import Credentials, RegistryAccess

pytestmark = [pytest.mark.host, pytest.mark.anyio]

LAYERS = (layer_of({"a": b"1" * 5000}), layer_of({"b": b"2" * 3000}))
IMAGE = ImageFile(LAYERS)
UNKNOWN = as_json({"errors": [{"code": "BLOB_UNKNOWN", "message": "no"}]})
BLOB = f"/blobs/{LAYERS[0].digest}"
SECRET = "a-very-secret-word"
CREDENTIALS = Credentials(username="ann", password=SECRET)


@pytest.fixture
def spool(short: Path) -> Path:
    directory = short / "spool"
    directory.mkdir(mode=0o700)
    return directory


def access(registry: HostileRegistry) -> RegistryAccess:
    return RegistryAccess(host=registry.host, insecure=True)


async def refused(
    make_fetcher: MakeFetcher,
    registry: HostileRegistry,
    spool: Path,
    error: type[BayError],
    limits: FetchLimits | None = None,
    **more: Any,
) -> str:
    fetcher = make_fetcher(access(registry), limits=limits or FetchLimits(stall_s=20))
    with pytest.raises(error) as found:
        await fetcher.fetch(parse(f"{registry.host}/some/image:v1"), spool, **more)
    assert type(found.value) is error
    assert SECRET not in repr(found.value)
    return found.value.message


def stall(request: Request) -> None:
    """Begin an answer that does not go on."""
    request.begin(100_000)
    request.registry.over.wait(60)


def drip(request: Request) -> None:
    """A byte of a large answer now and then."""
    request.begin(100_000)
    while not request.registry.over.wait(0.1):
        request.wfile.write(b"x")
        request.wfile.flush()


def unavailable(request: Request) -> None:
    request.refuse(503, "UNAVAILABLE")


@pytest.mark.parametrize("part", ["/v2/", "/manifests/", "/blobs/", BLOB])
async def test_a_registry_that_stalls_is_given_up(make_fetcher: MakeFetcher, spool: Path, part: str) -> None:
    with hostile(IMAGE, at(part, stall)) as registry:
        said = await refused(
            make_fetcher, registry, spool, RegistryUnavailable, FetchLimits(stall_s=1, timeout_s=60)
        )
    assert "came no further for 1 s" in said


async def test_a_registry_that_drips_has_the_time_of_a_pull_and_no_more(
    make_fetcher: MakeFetcher, spool: Path
) -> None:
    with hostile(IMAGE, at(BLOB, drip)) as registry:
        limits = FetchLimits(stall_s=30, timeout_s=2)
        assert "not complete in time" in await refused(
            make_fetcher, registry, spool, RegistryUnavailable, limits
        )


@pytest.mark.parametrize(
    ("status", "code", "error", "word"),
    [
        (401, "UNAUTHORIZED", ImageDenied, "credentials"),
        (403, "DENIED", ImageDenied, "credentials"),
        (404, "MANIFEST_UNKNOWN", ImageNotFound, "no "),
        (404, "NAME_UNKNOWN", ImageNotFound, "no "),
        (500, "UNKNOWN", RegistryUnavailable, ""),
        (502, "UNKNOWN", RegistryUnavailable, ""),
        (503, "UNAVAILABLE", RegistryUnavailable, ""),
    ],
)
async def test_the_answers_of_a_registry_become_words_of_ours(
    make_fetcher: MakeFetcher,
    spool: Path,
    status: int,
    code: str,
    error: type[BayError],
    word: str,
) -> None:
    asks = {"WWW_Authenticate": 'Basic realm="x"'} if status == 401 else {}
    hook = at("/manifests/", lambda request: request.refuse(status, code, **asks))
    with hostile(IMAGE, hook) as registry:
        for credentials in (None, CREDENTIALS):
            assert word in await refused(make_fetcher, registry, spool, error, credentials=credentials)
            (spool / "scratch").rmdir()


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (401, "UNAUTHORIZED", ImageDenied),
        (403, "DENIED", ImageDenied),
        (503, "UNAVAILABLE", RegistryUnavailable),
    ],
)
async def test_the_answers_of_a_token_service_become_words_of_ours(
    make_fetcher: MakeFetcher, spool: Path, status: int, code: str, error: type[BayError]
) -> None:
    def ask(request: Request) -> None:
        realm = f'Bearer realm="http://{request.registry.host}/token",service="x"'
        request.refuse(401, "UNAUTHORIZED", WWW_Authenticate=realm)

    service = at("/token", lambda request: request.refuse(status, code))
    with hostile(IMAGE, service, at("/v2/", ask)) as registry:
        await refused(make_fetcher, registry, spool, error, credentials=CREDENTIALS)


async def test_a_registry_that_wants_fewer_requests_is_left_alone_after_a_while(
    make_fetcher: MakeFetcher, spool: Path
) -> None:
    def refuse(request: Request) -> None:
        request.refuse(429, "TOOMANYREQUESTS", Retry_After="3600")

    with hostile(IMAGE, at("/manifests/", refuse)) as registry:
        await refused(make_fetcher, registry, spool, RegistryUnavailable, FetchLimits(stall_s=2))
        assert len(registry.asked("/manifests/")) < 10


@pytest.mark.parametrize("part", ["/manifests/", f"/blobs/{digest_of(IMAGE.config_bytes)}", BLOB])
@pytest.mark.parametrize("act", [unavailable, Request.reset])
async def test_failures_that_pass_are_tried_again(
    make_fetcher: MakeFetcher, spool: Path, part: str, act: Callable[[Request], None]
) -> None:
    with hostile(IMAGE, at(part, act, times=2)) as registry:
        fetcher = make_fetcher(access(registry))
        reference = parse(f"{registry.host}/some/image:v1")
        assert (await fetcher.fetch(reference, spool)).digest == IMAGE.digest


async def test_a_blob_that_breaks_off_is_fetched_again(make_fetcher: MakeFetcher, spool: Path) -> None:
    def half(request: Request) -> None:
        request.begin(len(LAYERS[0].blob))
        request.wfile.write(LAYERS[0].blob[:50])
        request.wfile.flush()
        request.reset()

    with hostile(IMAGE, at(BLOB, half, times=1)) as registry:
        fetcher = make_fetcher(access(registry))
        found = await fetcher.fetch(parse(f"{registry.host}/some/image:v1"), spool)
        assert found.digest == IMAGE.digest
        assert list(spool.glob("oci-put-blob*")) == []


@pytest.mark.parametrize("part", [f"/blobs/{digest_of(IMAGE.config_bytes)}", BLOB])
@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize("body", [UNKNOWN, b"<html>"], ids=["in words", "without"])
async def test_an_image_of_which_the_registry_lacks_a_blob_is_refused_at_once(
    make_fetcher: MakeFetcher, spool: Path, part: str, status: int, body: bytes
) -> None:
    with hostile(IMAGE, at(part, lambda request: request.send(status, body))) as registry:
        assert "lacks a layer or the config" in await refused(make_fetcher, registry, spool, ImageNotFound)
        assert len(registry.asked(part)) == 1


async def test_content_that_is_not_its_digest_is_refused(make_fetcher: MakeFetcher, spool: Path) -> None:
    other = bytes(len(LAYERS[0].blob))
    with hostile(IMAGE, at(BLOB, lambda request: request.send(200, other))) as registry:
        await refused(make_fetcher, registry, spool, ImageInvalid)


async def test_another_manifest_than_the_digest_names_is_refused(
    make_fetcher: MakeFetcher, spool: Path
) -> None:
    other = ImageFile(LAYERS[:1])
    with hostile(other) as registry:
        fetcher = make_fetcher(access(registry))
        pinned = parse(f"{registry.host}/some/image@{IMAGE.digest}")
        with pytest.raises(ImageInvalid):
            await fetcher.fetch(pinned, spool)


@pytest.mark.parametrize("size", [1, 10**12, (1 << 63) - 1])
async def test_a_size_that_is_a_lie_is_refused(make_fetcher: MakeFetcher, spool: Path, size: int) -> None:
    layers = [{**one, "size": size} for one in lying_layers()]
    with hostile(ImageFile(LAYERS, manifest={"layers": layers})) as registry:
        await refused(make_fetcher, registry, spool, ImageInvalid if size == 1 else ImageTooLarge)


def lying_layers() -> list[dict[str, Any]]:
    return [{"mediaType": one.media_type, "digest": one.digest, "size": len(one.blob)} for one in LAYERS]


async def test_more_bytes_than_the_manifest_says_end_at_the_limit(
    make_fetcher: MakeFetcher, spool: Path
) -> None:
    """Without a length the bytes come until somebody has enough of them."""

    def flood(request: Request) -> None:
        request.close_connection = True
        request.send_response(200)
        request.send_header("Connection", "close")
        request.end_headers()
        while not request.registry.over.is_set():
            request.wfile.write(bytes(1 << 20))

    with hostile(IMAGE, at(BLOB, flood)) as registry:
        limits = FetchLimits(stall_s=20, max_bytes=32 << 20)
        await refused(make_fetcher, registry, spool, ImageTooLarge, limits)
    assert sum(path.stat().st_size for path in spool.rglob("*")) < 64 << 20


@pytest.mark.parametrize("part", ["/manifests/", f"/blobs/{digest_of(IMAGE.config_bytes)}"])
async def test_a_document_of_more_than_a_mebibyte_is_refused(
    make_fetcher: MakeFetcher, spool: Path, part: str
) -> None:
    large = as_json({"a": "x" * (2 << 20)})
    with hostile(IMAGE, at(part, lambda request: request.send(200, large))) as registry:
        await refused(make_fetcher, registry, spool, ImageInvalid)


async def test_a_foreign_layer_is_refused_and_its_place_is_not_visited(
    make_fetcher: MakeFetcher, spool: Path
) -> None:
    with hostile(IMAGE) as elsewhere:
        layers = lying_layers()
        layers[0] |= {
            "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "urls": [f"http://{elsewhere.host}/x"],
        }
        with hostile(ImageFile(LAYERS, manifest={"layers": layers})) as registry:
            assert "foreign" in await refused(make_fetcher, registry, spool, ImageInvalid)
        assert elsewhere.requests == []


async def test_a_redirect_into_the_host_leads_nowhere(make_fetcher: MakeFetcher, spool: Path) -> None:
    """The host's loopback is another one than that of the fetch, where there is its registry alone."""
    with hostile(IMAGE) as inward:
        place = f"http://{inward.host}{{}}"
        hook = at(BLOB, lambda request: request.send(307, Location=place.format(request.path)))
        with hostile(IMAGE, hook) as registry:
            await refused(make_fetcher, registry, spool, RegistryUnavailable)
            assert registry.asked(BLOB)
        assert inward.requests == []


async def test_a_registry_that_asks_for_no_password_gets_none(make_fetcher: MakeFetcher) -> None:
    with hostile(IMAGE) as registry:
        await make_fetcher(access(registry)).resolve(parse(f"{registry.host}/a"), CREDENTIALS)
        assert registry.asked("/manifests/")
        assert [one for one in registry.requests if "Authorization" in one[1]] == []


@asynccontextmanager
async def stalled(make_fetcher: MakeFetcher, spool: Path) -> AsyncGenerator[tuple[asyncio.Task[Any], int]]:
    """A fetch that waits for a layer, and its process."""
    reached = threading.Event()

    def wait(request: Request) -> None:
        reached.set()
        stall(request)

    with hostile(IMAGE, at(BLOB, wait)) as registry:
        fetcher = make_fetcher(access(registry), limits=FetchLimits(stall_s=60))
        reference = parse(f"{registry.host}/some/image:v1")
        async with asyncio.TaskGroup() as group:
            task = group.create_task(fetcher.fetch(reference, spool, credentials=CREDENTIALS))
            await asyncio.to_thread(reached.wait, 30)
            (pid,) = await asyncio.to_thread(processes)
            yield task, pid
            task.cancel()


async def test_the_program_that_fetches_has_no_rights(make_fetcher: MakeFetcher, spool: Path) -> None:
    async with stalled(make_fetcher, spool) as (_, pid):
        lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        status = {line[0]: line[1:] for line in lines}
        assert {*status["Uid:"], *status["Gid:"]} == {str(FIRST_ID)}
        assert status["Groups:"] == []
        capabilities = [status[f"Cap{kind}:"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")]
        assert {int(one, 16) for (one,) in capabilities} == {0}
        assert status["NoNewPrivs:"] == ["1"]
        assert status["NSpid:"][1:] == ["1"]
        assert Path(f"/proc/{pid}/environ").read_bytes() == b""
        kinds = ("mnt", "net", "pid", "ipc", "uts")
        links = {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in kinds}
        assert [kind for kind in kinds if links[kind] == os.readlink(f"/proc/self/ns/{kind}")] == []
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert "unlimited" not in next(line for line in limits.splitlines() if "data size" in line)


async def test_the_program_that_fetches_sees_programs_certificates_and_its_spool(
    make_fetcher: MakeFetcher, spool: Path
) -> None:
    async with stalled(make_fetcher, spool) as (_, pid):
        root = Path(f"/proc/{pid}/root")
        assert {path.name for path in root.iterdir() if not path.is_symlink()} == {
            *("usr", "etc", "spool", "auth.json", "policy.json"),
        }
        assert {path.name for path in (root / "etc").iterdir()} - {"pki"} == {
            *("ssl", "passwd", "group", "hosts", "resolv.conf", "nsswitch.conf"),
        }
        mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        writable = [line.split()[4] for line in mounts if "rw" in line.split()[5].split(",")]
        assert writable == ["/", "/spool"]
        assert (root.stat().st_mode & 0o777, root.stat().st_uid) == (0o755, 0)


async def test_a_password_is_in_no_argument_environment_or_log(
    make_fetcher: MakeFetcher, spool: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with stalled(make_fetcher, spool) as (_, pid):
        for name in ("cmdline", "environ"):
            assert SECRET.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
        assert SECRET not in repr(CREDENTIALS)
    assert SECRET not in "".join(capfd.readouterr())
    assert not [path for path in spool.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


async def test_a_cancelled_fetch_ends_at_once_and_leaves_nothing(
    make_fetcher: MakeFetcher, short: Path, spool: Path
) -> None:
    async with stalled(make_fetcher, spool) as (task, pid):
        task.cancel()
        async with asyncio.timeout(10):
            await asyncio.wait([task])
        assert task.cancelled()
        assert not Path(f"/proc/{pid}").exists()
        assert_nothing_left(short)


KILLED = """
import asyncio, sys
from pathlib import Path
from fetchers import fetcher_in
from bay.images.references import parse
from bay.images.registries import RegistryAccess

short, host = Path(sys.argv[1]), sys.argv[2]
fetcher = fetcher_in(short, RegistryAccess(host=host, insecure=True))
asyncio.run(fetcher.fetch(parse(f"{host}/some/image:v1"), short / "spool"))
"""


async def test_a_killed_bay_takes_its_fetch_along_and_the_next_one_clears_up(
    make_fetcher: MakeFetcher, short: Path, spool: Path
) -> None:
    reached = threading.Event()

    def wait(request: Request) -> None:
        reached.set()
        stall(request)

    with hostile(IMAGE, at(BLOB, wait)) as registry:
        support = str(Path(__file__).parents[1] / "support")
        command = [sys.executable, "-c", KILLED, str(short), registry.host]
        bay = begun(command, {**os.environ, "PYTHONPATH": support})
        assert await asyncio.to_thread(reached.wait, 60)
        assert len(processes()) == 1
        bay.send_signal(signal.SIGKILL)
        bay.wait(10)
        await until(lambda: not processes())
    assert len(ranges_in(short).holders()) == 1
    await make_fetcher().open()
    assert_nothing_left(short)


async def test_a_process_that_outlived_its_bay_is_ended_at_the_next_start(
    make_fetcher: MakeFetcher, short: Path
) -> None:
    left = short / "run" / "fetches" / "fetch-left"
    (left / "stage").mkdir(parents=True)
    user = ranges_in(short).claim(left)
    command = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", "sleep", "100"]
    process = begun(command)
    try:
        await until(lambda: processes() == [process.pid])
        await make_fetcher().open()
        assert process.wait(10) == -signal.SIGKILL
    finally:
        process.kill()


def begun(command: list[str], env: dict[str, str] | None = None) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, env=env)


@contextmanager
def small_disk(directory: Path) -> Generator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(directory)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


async def test_a_full_disk_is_told_as_one(make_fetcher: MakeFetcher, spool: Path) -> None:
    big = ImageFile([layer_of({"a": os.urandom(1 << 20)})])
    with small_disk(spool), hostile(big) as registry:
        await refused(make_fetcher, registry, spool, StorageFull)


async def test_without_skopeo_the_error_names_the_package(
    make_fetcher: MakeFetcher, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bay.images.fetch_cage.PATH", str(short))
    with pytest.raises(BayError, match="apt install skopeo"):
        await make_fetcher().resolve(parse("busybox"))


def test_a_fetcher_is_made_without_touching_the_host(short: Path) -> None:
    fetcher_in(short)
    assert list(short.iterdir()) == []
