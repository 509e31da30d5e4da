"""`bay build` through the executable: a real registry, the oci driver, and templates that start."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forked_bay
import pytest
import registry
from image_files import ImageFile, layer_of_tree
from image_roots import busybox_root
from registry import Registry

from bay.client import AsyncClient, Client
from bay.errors import InvalidArgument
from bay.images import fetch_cage

pytestmark = [pytest.mark.host, pytest.mark.long]

KEY = "bay_0123456789abcdef0123456789abcdef"
TOKEN = "token-that-no-layer-may-have"
PROFILES = {"python-default": {}, "build": {"persist": "machine", "cpus": 1, "memory_mb": 512, "pids": 64}}
_BAY = (str(Path(sys.executable).parent / "bay"),)
_PATIENCE_S = 180.0


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Generator[Registry]:
    if os.geteuid() != 0 or not fetch_cage.is_installed() or not registry.is_installed():
        pytest.skip("needs root, skopeo, and docker-registry")
    with registry.registry(tmp_path_factory.mktemp("registry")) as made:
        yield made


@pytest.fixture(scope="module")
def small(hub: Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("busybox")
    busybox_root(root)
    config = {"config": {"Env": ["PATH=/bin", "COLOR=blue"], "Cmd": ["/bin/sh"]}}
    return hub.push(ImageFile(layers=(layer_of_tree(root),), config=config), "small/box", "1")


@dataclass(frozen=True)
class Bay:
    """Runs `bay` with a server of its own, whose data lie in `data`."""

    environment: dict[str, str]
    data: Path

    def run(self, *arguments: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        return forked_bay.run(list(arguments), self.environment, stdin, _PATIENCE_S)

    def __call__(self, *arguments: str, stdin: bytes = b"") -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def in_template(self, made: str, *command: str) -> str:
        """The output of a command in a sandbox of that template."""
        return self("run", "--image", json.loads(made)["image_id"], "--profile", "build", "--", *command)


@contextmanager
def serving(environment: dict[str, str]) -> Generator[str]:
    with open(os.devnull, "wb") as null:
        server = forked_bay.fork(["serve", "--port", "0"], environment, null.fileno())
    assert server.stdout is not None
    with server.stdout as said:
        try:
            yield said.readline().decode().rpartition(" ")[2].strip()
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


@pytest.fixture(scope="module")
def bay(hub: Registry) -> Generator[Bay]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}
    with tempfile.TemporaryDirectory(prefix="bay-", dir="/tmp") as root:
        Path(root).chmod(0o711)  # sessions pass through it
        own = clean | {
            "BAY_RUN_DIR": f"{root}/run", "BAY_DATA_DIR": f"{root}/data", "BAY_API_KEY": KEY,
            "BAY_CARGO_BACKEND": "directory", "BAY_REGISTRIES": json.dumps({hub.host: {"insecure": True}}),
            "BAY_PROFILES": json.dumps(PROFILES),
        }  # fmt: skip
        if "BAY_CACHE_DIR" in os.environ:
            own["BAY_CACHE_DIR"] = os.environ["BAY_CACHE_DIR"]
        with serving(own) as url:
            made = Bay(own | {"BAY_URL": url}, Path(root) / "data")
            made("secret", "set", "TOKEN", stdin=TOKEN.encode())
            yield made


@pytest.fixture
def context(tmp_path: Path, small: str) -> Path:
    top = tmp_path / "context"
    (top / "app" / "bin").mkdir(parents=True)
    (top / "app" / "bin" / "serve").write_text("#!/bin/sh\necho serving $MODE\n")
    (top / "app" / "bin" / "serve").chmod(0o755)
    (top / "app" / "away").symlink_to("/etc/os-release")
    (top / "app" / "notes.md").write_text("not for the image")
    (top / "one.txt").write_text("one")
    (top / ".dockerignore").write_text("**/*.md\nDockerfile\n")
    (top / "Dockerfile").write_text(f"FROM {small}\n")
    return top


def write(context: Path, small: str, body: str) -> None:
    (context / "Dockerfile").write_text(f"FROM {small}\n{body}")


WHOLE = """
ARG MODE=none
ENV MODE=$MODE TWICE="$COLOR $COLOR"
WORKDIR /srv
COPY app .
COPY --chown=7:8 --chmod=640 *.txt /data/
COPY <<EOF /etc/motd
it is $COLOR
EOF
RUN adduser() { echo "$1:x:1234:1234::/srv:/bin/sh" >> /etc/passwd; echo "$1:x:1234:" >> /etc/group; } ; adduser app
RUN <<EOF
set -e
rm /bin/yes
ln -s /srv/bin/serve /bin/serve
echo "pwd $(pwd), color $COLOR, mode $MODE, home $HOME, token ${#TOKEN}"
EOF
RUN ["/bin/sh", "-c", "id -u > /uid"]
USER 77:78
RUN id -u && id -g
USER app
WORKDIR home
RUN id -u > who
EXPOSE 80
LABEL kind=test
CMD ["serve"]
"""


def test_a_dockerfile_becomes_a_template_that_has_what_it_says(bay: Bay, context: Path, small: str) -> None:
    write(context, small, WHOLE)
    arguments = ("-t", "whole:1", "--profile", "build", "--build-arg", "MODE=fast", "--secret", "TOKEN")
    done = bay.run("build", str(context), *arguments, "--json")
    log, made = done.stderr.decode(), done.stdout.decode()
    assert done.returncode == 0, log
    assert f"FROM {small}\n" in log
    assert "[2/10] COPY app .\n" in log
    assert f"pwd /srv, color blue, mode fast, home /root, token {len(TOKEN)}\n" in log
    assert "\n77\n78\n" in log
    assert (json.loads(made)["name"], json.loads(made)["tag"]) == ("whole", "1")
    said = bay.in_template(
        made, "sh", "-c",
        "serve; cat /etc/motd /uid /srv/home/who; stat -c '%u:%g %a' /data/one.txt /srv /srv/bin/serve /srv/home; "
        "readlink /srv/away; ls /srv /bin/yes 2>&1; echo $TWICE; ls -A /workspace; pwd",
    )  # fmt: skip
    assert said.splitlines() == [
        "serving fast", "it is blue", "0", "1234", "7:8 640", "0:0 755", "0:0 755", "1234:1234 755",
        "/etc/os-release", "ls: /bin/yes: No such file or directory", "/srv:", "away", "bin", "home", "blue blue",
        "/workspace",
    ]  # fmt: skip
    image = json.loads(bay("image", "get", json.loads(made)["image_id"], "--json"))
    assert (image["user"], image["working_dir"], image["cmd"]) == ("app", "/srv/home", ["serve"])
    assert (image["exposed_ports"], image["labels"]) == (["80/tcp"], {"kind": "test"})
    assert bay("ls", "-q") == ""


def test_steps_become_a_template_and_the_whole_context_goes_to_the_top(
    bay: Bay, context: Path, small: str
) -> None:
    steps: list[dict[str, Any]] = [
        {"copy": {"sources": ["."], "target": "/"}},
        {"env": {"MODE": "$COLOR"}},
        {"workdir": "app"},
        {"run": ["sh", "-c", 'echo "$MODE" > mode']},
        {"start_command": "sleep 1000"},
    ]
    with Client(bay.environment["BAY_URL"], KEY) as client:
        made = client.templates.build(context, "steps", image=small, steps=steps, profile="build")
        assert made.start_command == ("/bin/sh", "-c", "sleep 1000")
        with client.sandbox(image=made.image_id, profile="build") as box:
            said = box.run("cat /app/mode /one.txt; ls -d /Dockerfile /app/notes.md; ls -ld / | cut -c1-10")
    assert said.stdout == "$COLOR\none" + "drwxr-xr-x\n"


@pytest.mark.anyio
async def test_a_build_on_an_event_loop_gives_its_log_to_a_callback(
    bay: Bay, context: Path, small: str
) -> None:
    write(context, small, "COPY one.txt /\nRUN cat one.txt")
    log: list[str] = []
    async with AsyncClient(bay.environment["BAY_URL"], KEY) as client:
        made = await client.templates.build(context, "loop:2", profile="build", log=log.append)
        assert [one.id async for one in client.templates.list(name="loop")] == [made.id]
    assert "".join(log) == f"FROM {small}\n[1/2] COPY one.txt /\n[2/2] RUN cat one.txt\none\nfreezing\n"


@pytest.mark.parametrize(
    "options", [{"steps": []}, {"image": "a"}, {"image": "a", "steps": [], "dockerfile": "b"}]
)
def test_a_build_has_one_source(bay: Bay, context: Path, options: dict[str, Any]) -> None:
    with (
        Client(bay.environment["BAY_URL"], KEY) as client,
        pytest.raises(InvalidArgument, match="one of the"),
    ):
        client.templates.build(context, "web", **options)


@pytest.mark.parametrize("name", ["Web", "web:", "web:a b", "tmpl/x"])
def test_a_name_that_cannot_be_is_refused_first(bay: Bay, context: Path, name: str) -> None:
    assert "cannot call a template" in bay.run("build", str(context), "-t", name).stderr.decode()


def test_no_layer_has_a_secret_unless_a_step_writes_it(bay: Bay, context: Path, small: str) -> None:
    write(context, small, 'RUN test -n "$TOKEN" && cat /run/secrets/token > /dev/null && echo used > /used')
    bay(
        *("build", str(context), "-t", "careful", "--profile", "build"),
        *("--secret", "TOKEN", "--secret", "TOKEN=/run/secrets/token"),
    )
    assert _files_with(bay.data / "images", TOKEN) == ""
    write(context, small, 'RUN echo "$TOKEN" > /kept')
    bay("build", str(context), "-t", "careless", "--profile", "build", "--secret", "TOKEN")
    assert _files_with(bay.data / "images", TOKEN).endswith("/kept\n")


def _files_with(directory: Path, text: str) -> str:
    return subprocess.run(
        ["grep", "-rlaF", text, directory], capture_output=True, text=True, check=False
    ).stdout


def test_a_step_that_fails_shows_its_line_and_its_output(bay: Bay, context: Path, small: str) -> None:
    write(
        context, small, "ENV A=1\n\nRUN echo before && \\\n  echo wrong >&2 && \\\n  exit 3\nRUN echo never\n"
    )
    done = bay.run("build", str(context), "-t", "failing", "--profile", "build")
    log = done.stderr.decode()
    assert (done.returncode, done.stdout) == (1, b"")
    assert "Dockerfile line 4: RUN echo before" in log
    assert "ended with 3" in log
    assert "before\nwrong\n" in log
    assert log.rstrip().endswith("its last line: wrong")
    assert "[2/2]" not in log
    assert bay("ls", "-q") == ""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("RUN --mount=type=ssh true", "line 2: RUN --mount=type=ssh is not supported"),
        ("RUN true\nCOPY notes.md /", "line 3: the context has no file notes.md"),
        ("USER nobody-there\nRUN true", "nobody-there"),
        ("RUN /no/such/program", "ended with 127"),
        ("RUN kill -9 $$", "was ended by signal 9"),
    ],
)
def test_a_build_that_cannot_be_is_refused_in_words(
    bay: Bay, context: Path, small: str, body: str, words: str
) -> None:
    write(context, small, body)
    done = bay.run("build", str(context), "-t", "refused", "--profile", "build")
    assert done.returncode != 0
    assert words in done.stderr.decode()
    assert bay("ls", "-q") == ""


def test_a_profile_that_keeps_no_machine_is_refused_before_the_first_step(
    bay: Bay, context: Path, small: str
) -> None:
    write(context, small, "RUN echo ran")
    done = bay.run("build", str(context), "-t", "kept")
    assert "persist: machine" in done.stderr.decode()
    assert b"[1/1]" not in done.stderr


def test_a_step_without_end_is_ended(bay: Bay, context: Path, small: str) -> None:
    write(context, small, "RUN echo begun; sleep 1000")
    done = bay.run("build", str(context), "-t", "endless", "--profile", "build", "--step-timeout", "2")
    assert "took longer than 2 s; its last line: begun" in done.stderr.decode()
    assert bay("ls", "-q") == ""


def test_ctrl_c_cancels_a_build_and_leaves_no_sandbox(bay: Bay, context: Path, small: str) -> None:
    write(context, small, "RUN echo begun; sleep 1000")
    with subprocess.Popen(
        [*_BAY, "build", str(context), "-t", "cancelled", "--profile", "build"],
        env=bay.environment,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        while line := process.stderr.readline():
            if line == b"begun\n":
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert bay("ls", "-q") == ""


def test_a_log_without_end_is_passed_on_whole(bay: Bay, context: Path, small: str) -> None:
    write(context, small, "RUN yes flood | head -n 2000000")
    done = bay.run("build", str(context), "-t", "flood", "--profile", "build")
    assert done.returncode == 0
    assert done.stderr.count(b"flood\n") == 2_000_000


def test_a_build_that_forks_without_end_harms_no_other(bay: Bay, context: Path, small: str) -> None:
    write(context, small, "RUN bomb() { bomb | bomb & }; bomb; sleep 1000")
    done = bay.run("build", str(context), "-t", "bomb", "--profile", "build", "--step-timeout", "5")
    assert done.returncode != 0
    write(context, small, "RUN echo fine")
    assert bay("build", str(context), "-t", "fine", "--profile", "build").startswith("tmpl-")
    assert bay("ls", "-q") == ""
