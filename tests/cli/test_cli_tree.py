"""The tree of commands: documented, quick to show, and what it loads."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from bay.cli.app import app

DOCS = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent / "bay"


def sections() -> dict[str, str]:
    """The text under each heading of docs/cli.md."""
    parts = ("\n" + DOCS).split("\n#")[1:]
    return {part.partition("\n")[0].strip("# `"): part for part in parts}


def options() -> Iterator[tuple[str, str]]:
    """Each command with each of its options, by their longest names."""
    root: Any = typer.main.get_command(app)
    for name, command in {"": root, **root.commands}.items():
        for parameter in command.params:
            if parameter.param_type_name == "option":
                yield f"bay {name}".strip(), max(parameter.opts, key=len)


def test_every_command_has_a_section() -> None:
    root: Any = typer.main.get_command(app)
    headings = [" ".join(heading.split()[:2]) for heading in sections()]
    assert [name for name in root.commands if f"bay {name}" not in headings] == []


@pytest.mark.parametrize(("command", "option"), list(options()))
def test_every_option_is_in_the_section_of_its_command(command: str, option: str) -> None:
    if command == "bay":
        command = "Options for every command"
    [section] = [
        text
        for heading, text in sections().items()
        if " ".join(heading.split()[:2]) == command or heading == command
    ]
    assert f"`{option}" in section or f", {option}" in section


def leaves(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Each command that does something, by all of its names."""
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from leaves(below, f"{path} {name}")
    else:
        yield path, command


def test_every_command_takes_json() -> None:
    lacking = [
        path
        for path, command in leaves(typer.main.get_command(app), "bay")
        if not any(parameter.name == "as_json" for parameter in command.params)
    ]
    assert lacking == ["bay mcp"]  # MCP is JSON


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(BIN), *arguments], capture_output=True, text=True, timeout=30, check=False)


def test_version_and_help_are_plain(tmp_path: Path) -> None:
    assert run("--version").stdout.startswith("bay 0.")
    for arguments in ([], ["--help"], ["-h"], ["run", "--help"]):
        done = run(*arguments)
        assert (done.returncode, done.stdout.startswith("Usage: bay")) == (0, True)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["ls", "--help"], ["frob"]])
def test_help_loads_neither_client_nor_server(arguments: list[str]) -> None:
    script = (
        "import sys, bay.cli.main\n"
        f"bay.cli.main.main({arguments!r})\n"
        "print('loaded', *[m for m in sys.modules if m.split('.')[0] in ('httpx', 'anyio', 'rich', 'fastapi', 'sqlalchemy')"
        " or m.startswith(('bay.client', 'bay.server'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded"


def test_a_command_does_without_rich_and_the_server() -> None:
    script = (
        "import sys, bay.cli.main\n"
        "bay.cli.main.main(['--url', 'http://127.0.0.1:1', 'ls'])\n"
        "print('loaded', *[m for m in sys.modules if m in ('rich', 'pygments', 'fastapi', 'bay.server')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded"


def test_completion_offers_the_commands() -> None:
    environment = {
        "_BAY_COMPLETE": "complete_bash",
        "COMP_WORDS": "bay c",
        "COMP_CWORD": "1",
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run(
        [str(BIN)], capture_output=True, text=True, timeout=30, check=False, env=environment
    )
    assert sorted(done.stdout.split()) == [
        "capabilities",
        "cargo",
        "checkpoint",
        "compat",
        "context",
        "cp",
        "create",
    ]


def test_short_commands_do_without_pydantic_and_the_async_client() -> None:
    script = (
        "import sys, bay.cli.main\n"
        "bay.cli.main.main(['--url', 'http://127.0.0.1:1', '--api-key', 'k', 'ls', '--label', 'a=b'])\n"
        "names = ('pydantic', 'asyncio', 'rich', 'bay.client._async', 'bay.cli.commands.exec')\n"
        "print('loaded', *[name for name in names if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.splitlines()[-1] == "loaded"
