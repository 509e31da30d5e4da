"""`bay python` on a real Bay with the `fake` driver."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bay as sdk


@pytest.fixture(scope="module")
def box(served: tuple[str, str]) -> Iterator[sdk.Box]:
    with sdk.Client(*served) as client, client.sandbox(name="py") as made:
        yield made


@pytest.fixture
def cli(served: tuple[str, str], box: sdk.Box, bay: Any) -> Any:
    return type(bay)(served[0], {"BAY_API_KEY": served[1]})


def test_code_remembers_and_its_output_goes_where_it_belongs(cli: Any, tmp_path: Path) -> None:
    assert cli("python", "py", "-c", "x = 20").returncode == 0
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint('out é')\nprint('err', file=sys.stderr)\nx + 1")
    done = cli("python", "py", str(script))
    assert (done.returncode, done.stdout.decode(), done.stderr) == (0, "out é\n21\n", b"err\n")
    assert cli("python", "py", "-", stdin=b"print(x)").stdout == b"20\n"


def test_what_fails_exits_with_1_and_says_why_on_stderr(cli: Any) -> None:
    done = cli("python", "py", "-c", "print('before'); 1 / 0")
    assert (done.returncode, done.stdout) == (1, b"before\n")
    assert b"ZeroDivisionError: division by zero" in done.stderr
    assert b"\x1b" not in done.stderr
    late = cli("python", "py", "-c", "while True: pass", "--timeout", "0.3")
    assert (late.returncode, late.stdout) == (1, b"")
    assert late.stderr.splitlines()[-1].startswith(b"bay: the cell ran longer than 0.3 s")


def test_output_that_is_missing_is_said_and_exits_with_1(cli: Any) -> None:
    done = cli("python", "py", "-c", "for _ in range(5000): print('x' * 4000)")
    assert done.returncode == 1
    assert done.stderr == b"bay: output beyond 16 MiB is missing: have the code write it to a file\n"


def test_json_prints_the_events(cli: Any) -> None:
    done = cli("python", "py", "-c", "print(1)", "--json")
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()] == ["start", "stdout", "end"]


def test_a_kernel_is_named_by_its_id(cli: Any, box: sdk.Box) -> None:
    made = box.kernels.create()
    made.run("y = 'there'")
    assert cli("python", "py", "--kernel", made.id, "-c", "print(y)").stdout == b"there\n"
    made.delete()
    assert cli("python", "py", "--kernel", made.id, "-c", "1").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), b"give the code"), (("-c", "1", "file"), b"give the code"), (("no-such-file",), b"No such file"),
        (("/bin/sh",), b"is not UTF-8 text"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_explained(cli: Any, arguments: tuple[str, ...], words: bytes) -> None:
    done = cli("python", "py", *arguments)
    assert done.returncode != 0
    assert words in done.stderr


def test_ctrl_c_interrupts_the_code(cli: Any, box: sdk.Box) -> None:
    process = cli.start("python", "py", "-c", "print('on', flush=True)\nwhile True: pass")
    with process:
        assert process.stdout.readline() == b"on\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert box.python.run("'free'", timeout_s=10).text == "'free'"


def test_ctrl_c_while_other_code_runs_leaves_that_alone(cli: Any, box: sdk.Box) -> None:
    with cli.start("python", "py", "-c", "print('on', flush=True)\nwhile True: pass") as theirs:
        assert theirs.stdout.readline() == b"on\n"
        with cli.start("python", "py", "-c", "mine = 1") as ours:
            _wait_queued(box)
            ours.send_signal(signal.SIGINT)
            assert ours.wait(20) == 130
            assert b"has not begun" in ours.stderr.read()
        assert box.kernels.get("default").info.state == "busy"
        theirs.send_signal(signal.SIGINT)
        assert theirs.wait(20) == 130


def _wait_queued(box: sdk.Box) -> None:
    deadline = time.monotonic() + 20
    while box.kernels.get("default").info.queued == 0:
        assert time.monotonic() < deadline


PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
FIGURES = f"""
from IPython.display import display
display({{"image/png": "{PNG}", "text/plain": "<Figure>"}}, raw=True)
display({{"image/svg+xml": "<svg/>", "text/plain": "<Figure>"}}, raw=True)
display({{"image/webp": "UklGRg==", "text/plain": "<Figure>"}}, raw=True)
display({{"image/png": "not base64!", "text/plain": "<Broken>"}}, raw=True)
6 * 7
"""


def test_figures_are_saved_where_it_is_said(cli: Any, tmp_path: Path) -> None:
    assert cli("python", "py", "-c", FIGURES).stdout.decode().split() == [
        "<Figure>",
        "<Figure>",
        "<Figure>",
        "<Broken>",
        "42",
    ]
    into = tmp_path / "figures"
    done = cli("python", "py", "-c", FIGURES, "--save", str(into))
    saved = [f"{into}/figure-{name}" for name in ("1.png", "2.svg", "3.webp")]
    assert done.stdout.decode().split() == [*saved, "<Broken>", "42"]
    assert b"was not saved" in done.stderr
    assert (into / "figure-1.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert (into / "figure-2.svg").read_text() == "<svg/>"
    cli("python", "py", "-c", FIGURES, "--save", str(into), "--json")
    assert sorted(path.name for path in into.iterdir()) == [
        "figure-1.png", "figure-2.svg", "figure-3.webp", "figure-4.png", "figure-5.svg", "figure-6.webp"
    ]  # fmt: skip
