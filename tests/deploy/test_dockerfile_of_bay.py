"""The Dockerfiles in deploy/, read by Bay's own builder, beside what set-up and a release make."""

import re
from pathlib import Path

import pytest

from bay.builds.dockerfile import Dockerfile
from bay.builds.steps import BuildConfig, Copy, Run

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
BASE = BuildConfig(env={"PATH": "/usr/bin:/bin"}, cmd=("bash",))


def test_it_is_a_dockerfile_that_installs_the_locked_wheel_and_serves() -> None:
    found = Dockerfile.read((ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")).plan(BASE)
    packages, copied, installed = found.steps
    assert isinstance(packages, Run)
    assert isinstance(copied, Copy)
    assert isinstance(installed, Run)
    assert copied.sources == ("requirements/server.txt", "dist/*.whl")
    assert (ROOT / copied.sources[0]).is_file()
    assert "--require-hashes -r /opt/server.txt" in installed.argv[-1]
    assert (found.config.entrypoint, found.config.cmd) == (("bay",), ("serve",))
    assert found.config.env["BAY_HOST"] == "0.0.0.0"  # noqa: S104  it is reached from outside the container


def test_it_has_the_system_packages_that_set_up_installs() -> None:
    setup = (ROOT / "scripts/setup-system.sh").read_text(encoding="utf-8")
    needs = setup.partition("needs=(\n")[2].partition("\n)")[0]
    wanted = {line.partition('" ')[0].strip().strip('"').split()[1] for line in needs.splitlines()}
    text = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    installed = {*re.findall(r"[a-z][a-z0-9-]+", text.partition("recommends")[2].partition("&&")[0])}
    assert wanted <= installed


def of_kubernetes() -> str:
    return (ROOT / "deploy/Dockerfile.kubernetes").read_text(encoding="utf-8")


def test_the_one_for_a_cluster_has_the_locked_wheel_and_is_not_root() -> None:
    text = of_kubernetes()
    found = Dockerfile.read(text).plan(BASE)
    config = found.config
    assert (config.entrypoint, config.cmd, config.user) == (("bay",), ("serve",), "10001:10001")
    assert config.env["BAY_HOST"] == "0.0.0.0"  # noqa: S104  it is reached from outside the pod
    assert "--require-hashes -r /opt/kubernetes.txt" in text
    assert (ROOT / "requirements/kubernetes.txt").is_file()


def test_the_one_for_a_cluster_has_nothing_that_makes_containers() -> None:
    installed = of_kubernetes().rpartition("FROM")[2].partition("recommends")[2].partition("&&")[0]
    assert installed.split() == ["ca-certificates", "python3", "\\"]
