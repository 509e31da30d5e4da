"""Files, checkpoints and cargos on the command line, against a real Bay with the `fake` driver."""

import io
import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fault_proxy
import pytest
from cli_runner import Cli, Done
from real_bay import KEY

import bay as sdk
from bay.cli.output import age, amount
from bay.cli.progress import Bar
from bay.clock import from_rfc3339
from bay.models import to_wire


def lines(done: Done) -> list[str]:
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().splitlines()


def objects(done: Done) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(done)]


# cp


def test_cp_keeps_modes_links_and_empty_directories(bay: Cli, name: str, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    (source / "empty").mkdir(parents=True)
    (source / "run").write_text("#!/bin/sh\n")
    (source / "run").chmod(0o755)
    (source / "link").symlink_to("run")
    assert lines(bay("cp", str(source), f"{name}:")) == []
    [said] = objects(bay("cp", f"{name}:tree", str(tmp_path / "back"), "--json"))
    assert said["bytes"] == 10
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == ["empty", "link", "run"]
    assert (tmp_path / "back" / "run").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "back" / "link").readlink() == Path("run")


def test_cp_of_what_is_in_a_directory_lands_in_the_directory_itself(
    bay: Cli, name: str, tmp_path: Path
) -> None:
    bay("cp", "-", f"{name}:d/f", stdin=b"1")
    (tmp_path / "here").mkdir()
    for remote, expected in ((f"{name}:d/.", "f"), (f"{name}:", "d"), (f"{name}:d", "d")):
        lines(bay("cp", remote, str(tmp_path / "here")))
        assert (tmp_path / "here" / expected).exists()
    assert (tmp_path / "here" / "d" / "f").read_text() == "1"


@pytest.fixture
def home(bay: Cli, name: str) -> str:
    """The workspace, which a sandbox of the `fake` driver has under a path of this host."""
    return objects(bay("files", "stat", name, ".", "--json"))[0]["path"]


def test_cp_takes_an_absolute_path(bay: Cli, name: str, home: str) -> None:
    lines(bay("cp", "-", f"{name}:{home}/etc/motd", stdin=b"hello"))
    assert bay("cp", f"{name}:{home}/etc/motd", "-").stdout == b"hello"


def test_cp_of_a_directory_to_stdout_says_why_not(bay: Cli, name: str) -> None:
    bay("cp", "-", f"{name}:d/f", stdin=b"1")
    done = bay("cp", f"{name}:d", "-")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"d is a directory" in done.stderr


def test_cp_says_what_it_left_out(bay: Cli, name: str, tmp_path: Path) -> None:
    for number in range(5):
        os.mkfifo(tmp_path / f"fifo{number}")
    done = bay("cp", str(tmp_path), f"{name}:tree")
    assert done.returncode == 0
    assert b"fifo0, fifo1, fifo2 and 2 more" in done.stderr


class Screen(io.StringIO):
    """A terminal, to whoever asks."""

    def isatty(self) -> bool:
        return True


def test_a_long_transfer_has_a_bar_on_a_terminal() -> None:
    screen = Screen()
    with Bar("big [file]", after_s=0, stream=screen) as bar:
        bar(1 << 20, 4 << 20)
        bar(2 << 20, 4 << 20)
    assert "big [file]" in screen.getvalue()
    assert "MiB" in screen.getvalue()


@pytest.mark.parametrize(("stream", "after_s"), [(io.StringIO(), 0), (Screen(), 60)])
def test_a_short_transfer_and_a_pipe_have_none(stream: io.StringIO, after_s: float) -> None:
    with Bar("big", after_s=after_s, stream=stream) as bar:
        bar(1, None)
    assert stream.getvalue() == ""


# checkpoint, fork


def test_a_checkpoint_is_made_listed_restored_and_removed(bay: Cli, name: str) -> None:
    bay("cp", "-", f"{name}:f", stdin=b"one")
    [first] = lines(bay("checkpoint", "create", name, "--name", "first", "--comment", "a try"))
    bay("cp", "-", f"{name}:f", stdin=b"two")
    [second] = objects(bay("checkpoint", "create", name, "--json"))
    third = bay("checkpoint", "create", name, "--name", "third").stdout.decode().strip()
    assert lines(bay("checkpoint", "restore", name, second["id"])) == []
    rows = [line.split() for line in lines(bay("checkpoint", "ls", name))]
    assert rows[0] == ["NOW", "ID", "NAME", "AGE", "SIZE", "EXCLUSIVE", "MEMORY", "AUTO", "FROM", "COMMENT"]
    assert rows[1][:3] == ["|", first, "first"]
    assert rows[1][4:] == ["-", "-", "no", "no", "-", "a", "try"]
    assert [row[:3] + row[8:] for row in rows[2:]] == [
        ["*", second["id"], "-", "first"],
        ["-", third, "third", second["id"]],
    ]
    [info] = objects(bay("checkpoint", "restore", name, "first", "--json"))
    assert info["checkpoint_id"] == first
    assert bay("cp", f"{name}:f", "-").stdout == b"one"
    lines(bay("checkpoint", "rm", name, "third", second["id"]))
    assert lines(bay("checkpoint", "ls", name, "-q")) == [first]
    assert bay("checkpoint", "rm", name, "third").returncode == 2


def test_the_differences_of_checkpoints_are_shown(bay: Cli, name: str) -> None:
    bay("cp", "-", f"{name}:edited", stdin=b"1")
    bay("cp", "-", f"{name}:gone", stdin=b"12")
    lines(bay("checkpoint", "create", name, "--name", "first"))
    bay("cp", "-", f"{name}:edited", stdin=b"123")
    bay("cp", "-", f"{name}:new/file", stdin=b"1")
    bay("exec", name, "--", "rm", "gone")
    shown = [
        "* /workspace/edited  1B -> 3B",
        "- /workspace/gone  2B",
        "+ /workspace/new",
        "+ /workspace/new/file  1B",
    ]
    assert lines(bay("checkpoint", "diff", name, "first")) == shown
    lines(bay("checkpoint", "create", name, "--name", "second"))
    assert lines(bay("checkpoint", "diff", name, "first", "second")) == shown
    assert lines(bay("checkpoint", "diff", name, "second")) == []
    [edited, *_] = objects(bay("checkpoint", "diff", name, "first", "--json"))
    assert (edited["change"], edited["before"]["size"], edited["after"]["size"]) == ("changed", 1, 3)


def test_a_checkpoint_goes_through_a_file_and_a_pipe(bay: Cli, name: str, tmp_path: Path) -> None:
    bay("cp", "-", f"{name}:f", stdin=b"one")
    bay("checkpoint", "create", name, "--name", "kept")
    [said] = objects(bay("checkpoint", "export", name, "kept", str(tmp_path / "kept"), "--json"))
    assert said["bytes"] == (tmp_path / "kept").stat().st_size
    piped = bay("checkpoint", "export", name, "kept", "-").stdout
    assert piped[:4] == bytes.fromhex("28b52ffd")
    assert len(lines(bay("checkpoint", "import", name, str(tmp_path / "kept"), "--name", "one"))) == 1
    done = bay("checkpoint", "import", name, "-", "--name", "two", "--json", stdin=piped)
    assert objects(done)[0]["name"] == "two"
    assert bay("checkpoint", "import", name, "-", stdin=b"nonsense").returncode == 2
    assert bay("checkpoint", "import", name, str(tmp_path / "nope")).stderr.count(b"\n") == 1


def test_forks_and_creates_begin_with_files_of_another(bay: Cli, name: str) -> None:
    bay("cp", "-", f"{name}:f", stdin=b"one")
    kept = bay("checkpoint", "create", name).stdout.decode().strip()
    bay("cp", "-", f"{name}:f", stdin=b"two")
    made = objects(bay("fork", name, "--count", "2", "--name", f"{name}-f", "--ttl", "1h", "--json"))
    assert [one["name"] for one in made] == [f"{name}-f-1", f"{name}-f-2"]
    assert [one["expires_at"] is None for one in made] == [False, False]
    assert bay("cp", f"{name}-f-2:f", "-").stdout == b"two"
    [old] = lines(bay("fork", name, "--checkpoint", kept))
    [new] = lines(bay("create", "--from-checkpoint", kept))
    assert [bay("cp", f"{box}:f", "-").stdout for box in (old, new)] == [b"one", b"one"]


def test_memory_is_asked_for_by_an_option(bay: Cli, name: str) -> None:
    """The server refuses it here, with the way out: none of its profiles saves memory."""
    bay("checkpoint", "create", name, "--name", "kept")
    for arguments in (("checkpoint", "create", name, "--memory"), ("fork", name, "--memory")):
        done = bay(*arguments)
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"hibernate" in done.stderr
    done = bay("checkpoint", "restore", name, "kept", "--memory")
    assert (done.returncode, b"files alone" in done.stderr) == (2, True)
    assert lines(bay("checkpoint", "restore", name, "kept", "--no-memory")) == []
    for arguments in ((), ("--before-stop",)):
        done = bay("checkpoint", "policy", name, *arguments, "--memory")
        assert (done.returncode, b"--every" in done.stderr) == (2, True)
    assert lines(bay("checkpoint", "policy", name, "--every", "1h", "--memory")) == [
        "every 3600 s, with memory; the newest 10 are kept"
    ]


def test_sizes_that_were_measured_are_in_the_lists(bay: Cli, proxy: fault_proxy.Proxy, name: str) -> None:
    identifier = objects(bay("get", name, "--json"))[0]["id"]
    bay("checkpoint", "create", name)
    made = bay("cargo", "create", "--size-limit-mb", "100").stdout.decode().strip()
    with sdk.Client(bay.url, KEY) as client:
        [checkpoint] = client.sandboxes.get(name).checkpoints()
        cargo = client.cargos.get(made)
    measured = replace(
        checkpoint, size_bytes=3 << 20, exclusive_bytes=4096, measured_at=checkpoint.created_at,
        kind="memory", memory_bytes=14 << 20,
    )  # fmt: skip
    weighed = replace(
        cargo, used_bytes=5 << 20, used_inodes=7, charged_bytes=6 << 20, size_limit_enforced=True,
        measured_at=datetime.now(UTC),
    )  # fmt: skip
    proxy.answers[f"/v1/sandboxes/{identifier}/checkpoints"] = {"items": [to_wire(measured)]}
    proxy.answers["/v1/cargos"] = {"items": [to_wire(weighed)]}
    through = Cli(proxy.url)
    assert lines(through("checkpoint", "ls", name))[1].split()[4:7] == ["3.0M", "4.0K", "14M"]
    [row] = [line.split() for line in lines(through("cargo", "ls"))[1:]]
    assert row == [made, "5.0M", "7", "6.0M", "100M", "0s", "directory", "-"]


# cargo


def test_cargos_are_made_moved_listed_and_removed(bay: Cli, name: str) -> None:
    [made] = lines(bay("cargo", "create", "--size-limit-mb", "100"))
    assert bay("cargo", "move", made, name).returncode == 2
    bay("stop", name)
    [moved] = objects(bay("cargo", "move", made, name, "--json"))
    heads, *rows = [line.split() for line in lines(bay("cargo", "ls"))]
    assert heads == ["ID", "USED", "FILES", "CHARGED", "LIMIT", "MEASURED", "BACKEND", "SANDBOXES"]
    # Parentheses: this backend cannot enforce the limit.
    assert [made, "-", "-", "-", "(100M)", "-", "directory", *moved["sandbox_ids"]] in rows
    [other] = objects(bay("cargo", "create", "--json"))
    assert lines(bay("cargo", "rm", other["id"])) == []
    assert other["id"] not in lines(bay("cargo", "ls", "-q"))
    managed = lines(bay("cargo", "ls", "--managed", "-q"))
    assert managed
    assert not {made, other["id"]} & set(managed)


# files


def test_files_are_listed_found_searched_and_described(bay: Cli, name: str, home: str) -> None:
    for path in ("src/one.py", "src/deep/two.py", "top.txt"):
        bay("cp", "-", f"{name}:{path}", stdin=b"first\nneedle \x1b[31m here\n")
    rows = [line.split() for line in lines(bay("files", "ls", name, "src", "--depth", "2"))]
    assert rows[0] == ["MODE", "OWNER", "SIZE", "MODIFIED", "PATH"]
    assert [(row[0], row[-1]) for row in rows[1:]] == [
        ("d0755", f"{home}/src/deep"),
        ("-0644", f"{home}/src/deep/two.py"),
        ("-0644", f"{home}/src/one.py"),
    ]
    assert lines(bay("files", "find", name, "**/*.py")) == [
        f"{home}/src/deep/two.py",
        f"{home}/src/one.py",
    ]
    [match] = lines(bay("files", "search", name, "NEEDLE", "-i", "--glob", "*.txt"))
    assert match == f"{home}/top.txt:2:needle \N{REPLACEMENT CHARACTER}[31m here"
    assert bay("files", "search", name, "nowhere").returncode == 1
    assert b"there is more" in bay("files", "search", name, "needle", "--limit", "1").stderr
    shown = lines(bay("files", "stat", name, "top.txt"))
    assert shown[:2] == [f"path:     {home}/top.txt", "type:     file"]
    assert objects(bay("files", "stat", name, "src", "--json"))[0]["type"] == "directory"
    assert bay("files", "ls", name, "nope").returncode == 2


@pytest.mark.parametrize(
    ("size", "shown"), [(None, "-"), (0, "0B"), (1023, "1023B"), (1 << 10, "1.0K"), (25 << 30, "25G")]
)
def test_amounts_are_short(size: int | None, shown: str) -> None:
    assert amount(size) == shown


@pytest.mark.parametrize(("then", "shown"), [("00:00:07", "53s"), ("00:01:00", "0s"), ("00:02:00", "0s")])
def test_ages_are_short(then: str, shown: str) -> None:
    now = from_rfc3339("2030-01-03T00:01:00Z")
    assert age(from_rfc3339(f"2030-01-03T{then}Z"), now) == shown
    assert age(from_rfc3339("2030-01-02T20:00:00Z"), now) == "4h"
    assert age(from_rfc3339("2030-01-01T00:00:00Z"), now) == "2d"
