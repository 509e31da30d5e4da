"""The words of E2B in docs/comparison.md are words of its package, as it is installed here."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from client_programs import PYTHON

pytestmark = pytest.mark.clients

PAGE = Path(__file__).parents[2] / "docs/comparison.md"
PRINT_NAMES = """
import inspect, json
from e2b_code_interpreter import Sandbox
from e2b.sandbox_sync.commands.command import Commands
from e2b.sandbox_sync.filesystem.filesystem import Filesystem
names = [*dir(Sandbox), *(f"files.{n}" for n in dir(Filesystem)), *(f"commands.{n}" for n in dir(Commands))]
words = [word for call in (Sandbox.create, Commands.run) for word in inspect.signature(call).parameters]
print(json.dumps([names, words, inspect.signature(Commands.run).parameters["timeout"].default]))
"""


def there() -> str:
    """The first column of the table of E2B."""
    table = PAGE.read_text(encoding="utf-8").partition("\n## E2B\n")[2].partition("\n## ")[0]
    return "\n".join(line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `"))


def test_the_methods_parameters_and_default_that_the_comparison_names_exist() -> None:
    done = subprocess.run(
        [PYTHON, "-c", PRINT_NAMES], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    names, words, default_s = json.loads(done.stdout)
    used = re.findall(r"(?:Sandbox|sbx)\.((?:\w+\.)?)([\w/]+)", there())
    methods = {group + name for group, several in used for name in several.split("/")}
    assert {"kill", "files.rename", "commands.run"} <= methods  # the table was read
    assert methods - set(names) == set()
    assert set(re.findall(r"(\w+)=", there())) - set(words) == set()
    assert re.findall(r"ends after (\d+) seconds", there()) == [f"{default_s:.0f}"]
