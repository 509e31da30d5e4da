"""Each promise about images, networks, memory and Bay's own end once, with real parts. What each means in
full is tested in the folders of its noun.
"""

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from lab import Lab, allow, allowlist, eventually, short_directory, ways
from serving import KEY, serving
from world import LAN, METADATA, OTHER, SITE

from bay import Client
from bay.errors import BuildFailed, CapabilityNotSupported

BAY = str(Path(sys.executable).with_name("bay"))


@pytest.fixture
def image(client: Client, archive: Path) -> Generator[str]:
    """It in Bay's library."""
    made = client.images.import_archive(archive, "small/box:1")
    yield made.id
    for template in client.templates.list():
        client.templates.delete(template.id)
    for box in client.sandboxes.list():
        box.delete()
    client.images.delete(made.id)


def test_a_sandbox_starts_from_an_image_of_an_archive(client: Client, image: str) -> None:
    with client.sandbox(image=image) as box:
        assert box.run("echo $COLOR; test -e /usr/bin/python3 || echo none").stdout == "blue\nnone\n"


def test_a_build_of_three_lines_makes_a_template_that_starts(
    client: Client, image: str, tmp_path: Path
) -> None:
    del image
    context = tmp_path / "context"
    context.mkdir()
    (context / "said").write_text("hello")
    (context / "Dockerfile").write_text("FROM small/box:1\nCOPY said /said\nRUN cat /said > /built\n")
    made = client.templates.build(context, "tool", profile="build")
    with client.sandbox(template=made) as box:
        assert box.run("cat /built").stdout == "hello"
    (context / "Dockerfile").write_text("FROM small/box:1\nRUN exit 3\n")
    with pytest.raises(BuildFailed, match="3"):
        client.templates.build(context, "broken", profile="build")


def test_a_sandbox_is_frozen_into_a_template(client: Client, image: str) -> None:
    with client.sandbox(image=image, profile="build") as box:
        box.run("mkdir -p /var/lib && echo tool > /var/lib/tool", user="root", check=True)
        made = client.templates.create("frozen", box.id)
    with client.sandbox(template=made) as other:
        assert other.run("cat /var/lib/tool").stdout == "tool\n"


def test_a_policy_lets_out_what_it_allows_and_no_packet_of_the_rest(bay: Lab) -> None:
    with bay.box(allowlist(allow(cidr=f"{SITE}/32"))) as box:
        box.reaches([(SITE, "tcp", 80)])
        box.reaches_none_of(ways(OTHER, LAN, METADATA[0]))


def test_an_open_network_reaches_the_internet_and_no_private_address(bay: Lab) -> None:
    with bay.box({"mode": "open"}) as box:
        box.reaches([(SITE, "tcp", 80), (OTHER, "tcp", 80)])
        box.reaches_none_of([(LAN, "tcp", 80), (METADATA[0], "tcp", 80)])


def test_a_policy_that_changes_holds_at_once(bay: Lab) -> None:
    with bay.box({"mode": "open"}) as box:
        box.reaches([(OTHER, "tcp", 80)])
        box.set_policy(allowlist(allow(cidr=f"{SITE}/32")))
        box.reaches_none_of([(OTHER, "tcp", 80)])


def test_a_sandbox_reaches_no_other_sandbox_and_not_its_host(bay: Lab) -> None:
    with bay.box({"mode": "open"}) as box, bay.box({"mode": "open"}) as other:
        other.begin("python3", "-m", "http.server", "8080")
        address = other.run("hostname", "-I")["stdout"].split()[0]
        box.reaches_none_of([(address, "tcp", 8080), ("5.5.5.2", "tcp", bay.server.port)])


@pytest.fixture
def saves_memory(client: Client) -> None:
    """This host has what saves memory."""
    if not client.capabilities().memory:
        pytest.skip("this host has no CRIU that works")


@pytest.mark.usefixtures("saves_memory")
def test_a_hibernated_sandbox_wakes_with_its_memory(client: Client) -> None:
    with client.sandbox(profile="sleeps") as box:
        box.python.run("x = 41")
        assert box.hibernate().compute == "hibernated"
        assert box.python.run("x + 1").results[0]["text/plain"] == "42"


@pytest.mark.usefixtures("saves_memory")
def test_a_checkpoint_with_memory_goes_on_from_its_moment(client: Client) -> None:
    with client.sandbox(profile="sleeps") as box:
        proc = box.spawn("n=0; while read line; do n=$((n + 1)); echo $n; done", stdin_open=True)
        with proc.attach() as attached:
            proc.write("\n")
            assert attached.read(20) is not None
        box.checkpoint("one", memory=True)
        proc.write("\n")
        box.restore("one")
        with proc.attach() as attached:
            proc.write("\n")
            said = b""
            while not said.endswith(b"2\n"):
                chunk = attached.read(20)
                assert chunk is not None
                said += chunk.data
    assert said == b"1\n2\n"


@pytest.mark.usefixtures("saves_memory")
def test_live_forks_have_what_runs_and_go_their_own_ways(client: Client) -> None:
    with client.sandbox(profile="sleeps") as box:
        box.python.run("x = 1")
        with box.fork(2, memory=True) as forks:
            for number, fork in enumerate(forks):
                fork.python.run(f"x += {number + 1}")
            found = [one.python.run("x").results[0]["text/plain"] for one in (box, *forks)]
    assert found == ["1", "2", "3"]


@pytest.mark.usefixtures("saves_memory")
def test_memory_is_refused_where_the_profile_has_none(client: Client) -> None:
    with client.sandbox() as box, pytest.raises(CapabilityNotSupported):
        box.hibernate()


def test_the_command_line_runs_a_command_in_a_pipe(bay: Lab) -> None:
    given = {**os.environ, "BAY_URL": bay.server.url, "BAY_API_KEY": KEY}
    done = subprocess.run(
        [BAY, "run", "-i", "--", "sh", "-c", "cat; exit 3"],
        input=b"through\n",
        env=given,
        capture_output=True,
        timeout=50,
        check=False,
    )
    assert (done.stdout, done.returncode) == (b"through\n", 3), done.stderr


def test_a_bay_killed_in_the_middle_of_a_create_goes_on_with_it_and_leaves_nothing(cache: Path) -> None:
    settings = {"BAY_DRIVER": "oci", "BAY_CACHE_DIR": str(cache), "BAY_CARGO_BACKEND": "directory"}
    with short_directory() as root:
        with serving(root, **settings) as server, server.client() as client:
            made = client.post("/v1/sandboxes", json={"name": "half"}).json()
            client.post("/v1/sandboxes/half/start")
            server.process.kill()
            server.process.wait(20)
        with serving(root, **settings) as server, Client(server.url, KEY) as user:
            (box,) = user.sandboxes.list()
            assert (box.id, box.name) == (made["id"], "half")
            assert box.run("echo up").stdout == "up\n"
            box.delete()
            eventually(lambda: not list(user.sandboxes.list()), "it is gone")
            assert server.end() == 0


def test_a_bay_that_ends_leaves_sandboxes_running_for_the_next(cache: Path) -> None:
    settings = {"BAY_DRIVER": "oci", "BAY_CACHE_DIR": str(cache), "BAY_CARGO_BACKEND": "directory"}
    with short_directory() as root:
        with serving(root, **settings) as server, Client(server.url, KEY) as user:
            box = user.sandboxes.create(name="stays", wait=20)
            proc = box.spawn("read line; echo got $line", stdin_open=True)
            assert server.end() == 0
        with serving(root, **settings) as server, Client(server.url, KEY) as user:
            box = user.sandboxes.get("stays")
            again = box.execs.get(proc.id)
            again.write("it\n")
            assert again.wait(20).stdout == "got it\n"
            box.delete()
            assert server.end() == 0
