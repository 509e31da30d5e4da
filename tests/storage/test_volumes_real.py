"""Volumes in real sandboxes on a real pool, through `bay` and the SDK."""

import json

import pytest
from pool_server import Shell

import bay

pytestmark = [pytest.mark.host, pytest.mark.long]

MIB = 1 << 20


def test_a_volume_goes_from_sandbox_to_sandbox(shell: Shell, client: bay.Client) -> None:
    cargo = shell("cargo", "create").strip()
    writer = shell("create", "--volume", f"{cargo}:/data", "--wait", "60").strip()
    assert json.loads(shell("get", writer, "--json"))["volumes"] == [
        {"cargo": cargo, "path": "/data", "read_only": False}
    ]
    assert f"volumes: {cargo}:/data" in " ".join(shell("get", writer).split())
    shell("exec", writer, "--", "sh", "-c", "echo hi > /data/file")
    with client.sandboxes.create(
        volumes=[bay.Volume(cargo=cargo, path="/in", read_only=True)], wait=60
    ) as reader:
        assert reader.info.volumes[0].read_only
        assert reader.run("cat /in/file").stdout == "hi\n"
        assert "Read-only file system" in reader.run("echo x > /in/file").stderr
        assert reader.files.read("/in/file") == b"hi\n"
    assert shell("cp", f"{writer}:/data/file", "-") == "hi\n"
    assert "is the workspace or a volume of" in shell("cargo", "rm", cargo, code=2)
    shell("rm", writer)
    assert shell("run", "--volume", f"{cargo}:/mnt/x:ro", "cat", "/mnt/x/file") == "hi\n"
    shell("cargo", "rm", cargo)


def test_a_second_writer_waits_for_the_first(client: bay.Client) -> None:
    cargo = client.cargos.create()
    volumes = [bay.Volume(cargo=cargo.id, path="/data")]
    first = client.sandboxes.create(volumes=volumes, wait=60)
    second = client.sandboxes.create(volumes=volumes, wait=60)
    assert second.info.error is not None
    assert f"cargo {cargo.id} is written to by {first.id}" in second.info.error.message
    first.stop()
    second.start(wait=60)
    assert second.run("touch /data/there").ok
    for box in (first, second):
        box.delete()
    client.cargos.delete(cargo.id)


def test_checkpoints_have_no_volumes_and_forks_read_them(client: bay.Client) -> None:
    cargo = client.cargos.create()
    box = client.sandboxes.create(volumes=[bay.Volume(cargo=cargo.id, path="/workspace2")], wait=60)
    box.run("echo before > /workspace2/file; echo before > /workspace/file")
    kept = box.checkpoint()
    box.run("echo after > /workspace2/file; echo after > /workspace/file")
    with box.fork(checkpoint=kept) as (fork,):
        assert fork.run("cat /workspace/file /workspace2/file").stdout == "before\nafter\n"
        assert not fork.run("touch /workspace2/file").ok
    box.restore(kept)
    assert box.run("cat /workspace/file /workspace2/file").stdout == "before\nafter\n"
    box.delete()
    client.cargos.delete(cargo.id)


def test_a_volume_has_the_limit_of_its_cargo(client: bay.Client) -> None:
    cargo = client.cargos.create(size_limit_mb=32)
    box = client.sandboxes.create(volumes=[bay.Volume(cargo=cargo.id, path="/data")], wait=60)
    done = box.run(["dd", "if=/dev/urandom", "of=/data/flood", "bs=1M", "count=100"])
    assert "Disk quota exceeded" in done.stderr
    assert 24 * MIB < int(box.run("stat -c %s /data/flood").stdout) <= 33 * MIB
    box.delete()
    client.cargos.delete(cargo.id)


@pytest.mark.parametrize("text", ["ws-1", "ws-1:data", ":/data", "ws-1:/data:rx"])
def test_a_volume_that_is_none_is_refused_in_words(shell: Shell, text: str) -> None:
    said = shell("create", "--volume", text, code=2)
    assert "--volume takes CARGO:/path" in said or "there is no cargo" in said
