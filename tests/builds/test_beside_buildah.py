"""The configs of plans beside those that buildah makes of the same files, where it is installed.

Where buildah departs from Docker's documentation, `test_dockerfile.py` alone has the case: buildah knows no
other escape character in words, uses no SHELL for CMD, and keeps a port's protocol in capitals.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from bay.builds.dockerfile import Dockerfile
from bay.builds.steps import BuildConfig
from bay.images.config import ImageConfig

pytestmark = [
    pytest.mark.host,
    pytest.mark.long,
    pytest.mark.skipif(
        shutil.which("buildah") is None or os.geteuid() != 0, reason="needs buildah, and root to run it"
    ),
]

_BASE = 'FROM scratch\nENV PATH=/bin BASE=1\nLABEL from=base\nEXPOSE 1/udp\nWORKDIR /base\nCMD ["base"]\n'

_FILES = {
    "env": "ENV A=$BASE B='$A' C=\"x y\" D=a\\ b E=${A:-d} F=${BASE:+plus}\nENV G $BASE  two\nENV A=2 H=$A",
    "arg": "ARG X=1\nARG Y=$X$BASE\nARG BASE=never\nENV A=${X}-${Y}-${BASE}\nARG GIVEN=default\nENV B=$GIVEN",
    "directories": "WORKDIR a\nWORKDIR ../b//c/./\nENV D=/d\nWORKDIR $D/e",
    "commands": 'ENTRYPOINT run it "now"\nCMD echo $A \\\n  more',
    "exec": 'CMD ["a", "b c"]\nENTRYPOINT ["d"]',
    "broken_json": "CMD ['a']",
    "facts": "LABEL a=b 'c d'=\"e $BASE\"\nEXPOSE 80 53/udp\nSTOPSIGNAL SIGINT\nUSER ${U:-me}:$BASE",
    "health": "HEALTHCHECK --interval=1m30s --timeout=2s --start-period=1h --retries=7 CMD a b",
    "no_health": "HEALTHCHECK NONE",
}


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> "_Buildah":
    made = _Buildah(tmp_path_factory.mktemp("buildah"))
    made.build(_BASE, "base")
    return made


class _Buildah:
    """It has a store of its own, and makes no network: no step of these files runs anything."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "context").mkdir()
        (place / "helpers").mkdir()
        for name in ("netavark", "aardvark-dns"):
            (place / "helpers" / name).symlink_to("/usr/bin/true")
        (place / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        (place / "containers.conf").write_text(f'[engine]\nhelper_binaries_dir = ["{place}/helpers"]\n')

    def run(self, *arguments: str) -> str:
        stores = ("--root", f"{self.place}/root", "--runroot", f"{self.place}/run", "--storage-driver", "vfs")
        done = subprocess.run(
            ("buildah", *stores, *arguments),
            env={"PATH": os.environ["PATH"], "HOME": str(self.place), "CONTAINERS_CONF": f"{self.place}/containers.conf"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def build(self, text: str, name: str) -> None:
        file = self.place / name
        file.write_text(text)
        context = str(self.place / "context")
        self.run(
            "bud", "--signature-policy", f"{self.place}/policy.json", "--isolation", "chroot", "--format", "docker",
            "--build-arg", "GIVEN=given", "-t", f"localhost/{name}", "-f", str(file), context,
        )  # fmt: skip

    def config(self, name: str) -> BuildConfig:
        found = json.loads(self.run("inspect", "--type", "image", f"localhost/{name}"))["Docker"]["config"]
        del found["Labels"]["io.buildah.version"]
        text = json.dumps({"os": "linux", "architecture": "amd64", "config": found})
        return BuildConfig.of(ImageConfig.from_json(text.encode()).to_json())


@pytest.mark.parametrize("name", _FILES)
def test_a_plan_has_the_config_that_buildah_makes(buildah: _Buildah, name: str) -> None:
    text = f"FROM localhost/base\n{_FILES[name]}\n"
    buildah.build(text, name)
    assert _plain(Dockerfile.read(text, {"GIVEN": "given"}).plan(buildah.config("base")).config) == _plain(
        buildah.config(name)
    )


def _plain(config: BuildConfig) -> object:
    """As JSON, in which the order of ports means nothing."""
    return {
        "env": config.env, "labels": config.labels, "user": config.user, "workdir": config.working_dir,
        "entrypoint": config.entrypoint, "cmd": config.cmd, "signal": config.stop_signal,
        "ports": sorted(config.exposed_ports), "health": config.healthcheck,
    }  # fmt: skip
