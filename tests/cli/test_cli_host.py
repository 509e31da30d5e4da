"""`bay admin host` and `bay admin settings` on a real Bay, and how their lines look."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bay
from bay.cli.commands.host import _starts, _value
from bay.models import SettingInForce, StartBucket, StartTimes

BIN = Path(sys.executable).parent / "bay"


def run(served: tuple[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "BAY_URL": served[0], "BAY_API_KEY": served[1]}
    return subprocess.run([BIN, *arguments], env=env, capture_output=True, text=True, timeout=60)


def test_host_shows_the_sandboxes_of_all_owners(served: tuple[str, str]) -> None:
    with bay.Client(*served, timeout_s=30) as client, client.sandbox():
        done = run(served, "admin", "host")
        overview = client.admin.host()
    assert (done.returncode, done.stderr) == (0, "")
    fields = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert list(fields) == [
        *("bay", "driver", "replica", "processors", "load", "memory", "storage", "sandboxes", "compute"),
        *("pools", "starts"),
    ]
    shown = {name: value.strip() for name, value in fields.items()}
    assert shown["driver"] == overview.driver
    assert shown["bay"].startswith(f"{bay.__version__}, up ")
    assert "1 ready" in shown["sandboxes"]
    assert "% within " in shown["starts"]


def test_host_prints_the_answer_of_the_api_as_json(served: tuple[str, str]) -> None:
    found = json.loads(run(served, "admin", "host", "--json").stdout)
    assert {"load", "memory", "storage", "sandboxes", "starts"} <= found.keys()


def test_settings_shows_values_and_origins_and_no_secret(served: tuple[str, str]) -> None:
    done = run(served, "admin", "settings")
    assert (done.returncode, done.stderr) == (0, "")
    assert served[1] not in done.stdout
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert rows["SETTING"] == ["VALUE", "FROM"]
    assert rows["driver"][0] == "fake"
    assert rows["api_key"][0] == "(set)"
    as_json = [json.loads(line) for line in run(served, "admin", "settings", "--json").stdout.splitlines()]
    assert {one["name"] for one in as_json} == rows.keys() - {"SETTING"}


@pytest.mark.parametrize("command", ["host", "settings"])
def test_a_key_that_is_no_admin_s_is_refused(served: tuple[str, str], command: str) -> None:
    with bay.Client(*served, timeout_s=30) as client:
        made = client.keys.create(name=f"plain-{command}")
    done = run((served[0], str(made.secret)), "admin", command)
    assert (done.returncode, done.stdout) == (2, "")
    assert "admin" in done.stderr


def test_start_times_are_a_number_a_mean_and_a_bound() -> None:
    buckets = (
        StartBucket(le_s=0.1, count=18),
        StartBucket(le_s=0.5, count=1),
        StartBucket(le_s=None, count=1),
    )
    assert (
        _starts(StartTimes(count=20, sum_s=4.0, buckets=buckets))
        == "20, 0.200 s on average, 95 % within 0.5 s"
    )
    slow = (StartBucket(le_s=0.1, count=1), StartBucket(le_s=None, count=1))
    assert _starts(StartTimes(count=2, sum_s=500.0, buckets=slow)).endswith("95 % longer than all bounds")
    assert _starts(StartTimes(count=0, sum_s=0.0, buckets=slow)) == "0"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), ("oci", "oci"), (3, "3"), (True, "true"), (["10.0.0.0/8"], '["10.0.0.0/8"]')],
)
def test_a_value_is_shown_as_its_file_would_have_it(value: object, shown: str) -> None:
    setting = SettingInForce(
        name="a", value=value, is_secret=False, is_set=value is not None, origin=None, description=""
    )
    assert _value(setting) == shown
