"""`bay init`: a file with every setting, which changes nothing and replaces nothing."""

import json
import re
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Cli

from bay.server.settings import (
    IsolationSettings,
    KubernetesSettings,
    ProfileSettings,
    QuotaSettings,
    RegistrySettings,
    Settings,
    load,
    read,
)
from bay.server.settings_example import example

NOWHERE = Cli("http://127.0.0.1:1")


def uncommented(text: str) -> str:
    return re.sub(r"(?m)^#(\[|[a-z_0-9]+ = )", r"\1", text)


@pytest.fixture(autouse=True)
def _no_settings_here(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    for name in Settings.model_fields:
        monkeypatch.delenv(f"BAY_{name.upper()}", raising=False)


def test_it_has_every_setting_with_its_default() -> None:
    found = tomllib.loads(uncommented(example()))
    tables = {
        "profiles": (found["profiles"]["NAME"], ProfileSettings),
        "quotas": (found["quotas"], QuotaSettings),
        "registries": (found["registries"]["registry.example.com"], RegistrySettings),
        "kubernetes": (found["kubernetes"], KubernetesSettings),
        "kubernetes.isolations": (found["kubernetes"]["isolations"]["NAME"], IsolationSettings),
    }
    assert set(found) == set(Settings.model_fields) - {"owners"}
    for name, (table, model) in tables.items():
        assert set(table) == set(model.model_fields), name
    default = load().model_dump(mode="json")
    plain = {name: value for name, value in found.items() if name not in tables and default[name] is not None}
    given: dict[str, Any] = {**plain, "profiles": {k: v for k, v in found["profiles"].items() if k != "NAME"}}
    assert load(**given).model_dump() == load().model_dump()


def test_the_file_as_it_is_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bay.toml"
    done = NOWHERE("init", str(path))
    assert (done.returncode, done.stdout) == (0, b"")
    assert f"bay serve --config {path}" in done.stderr.decode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read(path).model_dump() == read().model_dump()


def test_it_replaces_no_file(tmp_path: Path) -> None:
    path = tmp_path / "bay.toml"
    path.write_text("mine")
    done = NOWHERE("init", str(path))
    assert (done.returncode, path.read_text()) == (2, "mine")
    assert b"already there" in done.stderr
    assert NOWHERE("init", "/dev/full").returncode == 2
    assert b"No such file" in NOWHERE("init", str(tmp_path / "none" / "x")).stderr


def test_it_prints_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert NOWHERE("init", "-").stdout.decode() == example().rstrip("\n") + "\n"
    assert json.loads(NOWHERE("init", "--json").stdout) == {"path": "bay-server.toml"}
