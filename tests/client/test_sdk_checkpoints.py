"""Checkpoints, forks and cargos through the SDK."""

import io
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import canned
import fault_proxy
import httpx
import pytest
from real_bay import KEY

import bay
from bay.client._zstd import Frames

MAGIC = bytes.fromhex("28b52ffd")


def zstd(data: bytes) -> bytes:
    """A zstd frame of blocks that are not packed (RFC 8878, raw blocks)."""
    pieces = [data[i : i + 100_000] for i in range(0, len(data), 100_000)] or [b""]
    blocks = [(len(piece) << 3 | (piece is pieces[-1])).to_bytes(3, "little") + piece for piece in pieces]
    return MAGIC + b"\x00\x58" + b"".join(blocks)


CHECKPOINT: dict[str, Any] = {
    "id": f"ckpt-{'0' * 24}",
    "sandbox_id": canned.SANDBOX["id"],
    "number": 1,
    "name": None,
    "comment": None,
    "created_at": "2030-01-01T00:00:00Z",
    "kind": "files",
    "auto": False,
    "parent_id": None,
    "current": True,
    "persist": "workspace",
    "size_bytes": None,
    "exclusive_bytes": None,
    "inodes": None,
    "measured_at": None,
    "memory_bytes": None,
}


def test_files_come_back_as_they_were(box: bay.Box) -> None:
    box.files.write("f", "one")
    made = box.checkpoint("before", "a try")
    assert (made.name, made.comment, made.current) == ("before", "a try", True)
    box.files.write("f", "two")
    later = box.checkpoint()
    assert box.restore("before").checkpoint_id == made.id
    assert (box.files.read("f"), box.info.checkpoint_id) == (b"one", made.id)
    assert [(kept.id, kept.current, kept.parent_id) for kept in box.checkpoints()] == [
        (made.id, True, None),
        (later.id, False, made.id),
    ]
    assert box.checkpoints(auto=True) == []
    assert box.get_checkpoint("before").id == made.id
    box.delete_checkpoint(later)
    with pytest.raises(bay.NotFound):
        box.restore(later)
    with pytest.raises(bay.Conflict):
        box.checkpoint("before")


def test_checkpoints_are_compared_and_their_files_are_read(box: bay.Box) -> None:
    box.files.write("f", "one")
    before = box.checkpoint("before")
    box.files.write("f", "three")
    box.checkpoint("after")
    for to in ("after", None):
        [change] = box.diff_checkpoint(before, to)
        assert (change.path, change.change) == ("/workspace/f", "changed")
        assert change.before
        assert change.after
        assert (change.before.size, change.after.size) == (3, 5)
    assert list(box.diff_checkpoint("after")) == []
    assert [box.read_checkpoint_file(kept, "f") for kept in (before, "after")] == [b"one", b"three"]
    with pytest.raises(bay.FileMissing):
        box.read_checkpoint_file(before, "absent")


def test_forks_have_files_of_their_own(box: bay.Box, client: bay.Client) -> None:
    box.files.write("f", "one")
    kept = box.checkpoint()
    box.files.write("f", "two")
    one, two = box.fork(2, name=f"fork-{box.id[-6:]}")
    assert (one.name, two.name) == (f"fork-{box.id[-6:]}-1", f"fork-{box.id[-6:]}-2")
    one.files.write("f", "three")
    assert [b.files.read("f") for b in (box, one, two)] == [b"two", b"three", b"two"]
    [old] = box.fork(checkpoint=kept, ttl="10m")
    assert old.info.expires_at == old.info.created_at + timedelta(minutes=10)
    with client.sandbox(from_checkpoint=kept) as made:
        assert old.files.read("f") == made.files.read("f") == b"one"
        assert made.info.checkpoint_id == kept.id


def test_memory_is_refused_with_the_way_out_where_none_is_saved(box: bay.Box) -> None:
    kept = box.checkpoint("kept")
    assert (kept.kind, kept.memory_bytes) == ("files", None)
    for ask in (lambda: box.checkpoint(memory=True), lambda: box.fork(memory=True)):
        with pytest.raises(bay.CapabilityNotSupported, match="hibernate"):
            ask()
    for ask in (lambda: box.restore(kept, memory=True), lambda: box.fork(checkpoint=kept, memory=True)):
        with pytest.raises(bay.Conflict, match="files alone"):
            ask()
    box.restore(kept, memory=False)
    assert [one.id for one in box.checkpoints()] == [kept.id]


def test_a_policy_is_given_and_taken_away(client: bay.Client) -> None:
    policy = bay.CheckpointPolicy(every=600, before_stop=True, memory=True)
    with client.sandbox(checkpoint_policy=policy) as box:
        assert box.info.checkpoint_policy == policy
        assert box.update(checkpoint_policy=None).checkpoint_policy is None
        changed = bay.CheckpointPolicy(keep_last=3)
        assert box.update(checkpoint_policy=changed).checkpoint_policy == changed


def test_a_checkpoint_leaves_and_comes_back(box: bay.Box, tmp_path: Path) -> None:
    box.files.write("f", b"z" * 500_000)
    box.checkpoint("kept")
    told: list[int] = []
    size = box.export_checkpoint(
        "kept", tmp_path / "kept.tar.zst", progress=lambda done, _: told.append(done)
    )
    assert (tmp_path / "kept.tar.zst").stat().st_size == size == told[-1]
    made = box.import_checkpoint(tmp_path / "kept.tar.zst", name="back", comment="again")
    box.files.delete("f")
    box.restore(made)
    assert (made.name, box.files.read("f")) == ("back", b"z" * 500_000)
    with pytest.raises(bay.InvalidArgument):
        box.import_checkpoint(io.BytesIO(b"nonsense"))


def test_an_export_that_breaks_off_without_a_word_is_noticed(
    proxy: fault_proxy.Proxy, box: bay.Box, tmp_path: Path
) -> None:
    box.files.write("f", b"z" * 500_000)
    box.checkpoint("kept")
    with bay.Client(f"{proxy.url}/cut", KEY) as client, pytest.raises(bay.BayError, match="is truncated"):
        client.sandboxes.get(box.id).export_checkpoint("kept", tmp_path / "kept")
    assert list(tmp_path.iterdir()) == []


WHOLE = [
    zstd(b"x" * 250_000),
    zstd(b""),
    zstd(b"a") + b"\x50\x2a\x4d\x18\x03\0\0\0abc",
    b"\x50\x2a\x4d\x18\0\0\0\0" + zstd(b"a"),
    MAGIC + b"\x24\x05" + b"\x03\0\0" + b"x" + b"\0\0\0\0",  # one segment, one repeated byte, a checksum
]


@pytest.mark.parametrize("data", WHOLE)
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_zstd_is_whole_or_it_is_noticed(data: bytes, piece: int) -> None:
    def walk(some: bytes) -> None:
        frames = Frames()
        for start in range(0, len(some), piece):
            frames.feed(some[start : start + piece])
        frames.feed(b"")

    if len(data) < 1000 or piece > 1:
        walk(data)
        with pytest.raises(bay.BayError, match=r"is truncated|not zstd"):
            walk(data[:-1])
    with pytest.raises(bay.BayError):
        walk(b"PK" + data[:50])


def scripted(answer: Callable[[httpx.Request], httpx.Response]) -> bay.Client:
    return bay.Client("http://bay.test", "k", transport=httpx.MockTransport(answer))


@pytest.mark.parametrize(
    ("act", "answered"),
    [
        (bay.Box.checkpoint, CHECKPOINT),
        (bay.Box.fork, {"items": [canned.SANDBOX]}),
    ],
)
def test_what_is_made_is_asked_for_again_under_the_same_key(
    act: Callable[[bay.Box], object], answered: dict[str, Any]
) -> None:
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json=canned.SANDBOX)
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) == 1:
            raise httpx.ReadError("reset")
        return httpx.Response(201, json=answered)

    with scripted(answer) as client:
        act(client.sandboxes.get("box"))
    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_a_restore_that_may_have_happened_is_not_repeated() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        if request.method == "POST":
            raise httpx.ReadError("reset")
        return httpx.Response(200, json=canned.SANDBOX)

    with scripted(answer) as client, pytest.raises(bay.ConnectionFailed):
        client.sandboxes.get("box").restore("kept")
    assert asked == ["GET", "POST"]


def test_a_checkpoint_needs_a_name_that_is_no_path(box: bay.Box) -> None:
    for name in ("..", "."):
        with pytest.raises(bay.InvalidArgument):
            box.get_checkpoint(name)


def test_a_full_pool_is_storage_full() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json=canned.SANDBOX)
        error: dict[str, Any] = {
            "code": "storage_full",
            "message": "no room",
            "request_id": "r",
            "details": {},
        }
        return httpx.Response(507, content=json.dumps({"error": error}))

    with scripted(answer) as client, pytest.raises(bay.StorageFull):
        client.sandboxes.get("box").checkpoint()


def test_cargos_are_listed_page_by_page_and_removed(client: bay.Client) -> None:
    made = [client.cargos.create(size_limit_mb=100) for _ in range(3)]
    assert {cargo.id for cargo in made} <= {cargo.id for cargo in client.cargos.list(limit=1)}
    # Without a limit of its own it has the one that Bay gives where nothing is asked.
    assert (client.cargos.update(made[0].id, size_limit_mb=None).size_limit_mb or 0) > 100
    client.cargos.delete(made[1].id)
    with pytest.raises(bay.NotFound):
        client.cargos.get(made[1].id)
