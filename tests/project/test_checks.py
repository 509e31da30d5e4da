"""The checks of texts, which `make check` runs."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_docs", ROOT / "scripts/check_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_text_installs_bay_from_an_index_which_has_a_strangers_package_of_that_name(
    checks: ModuleType,
) -> None:
    name = "bay" + "-sandbox"
    for wrong in (
        *(f"pip install {name}", f"pip install '{name}[server,s3]'", f"uv tool install --python 3.13 {name}"),
        *(f"pipx upgrade --global {name}", f"npm install {name}", f"uvx {name} run", f"uv add {name}"),
        f'"install it with: pip install "\n    "\'{name}[kubernetes]\'"',
    ):
        found = list(checks.findings("page.md", f"A line.\n{wrong}\n"))
        assert len(found) == 1, wrong
        assert found[0].startswith(f"page.md:{2 + wrong.count(chr(10))}: ")
    for right in (
        *("pip install '.[s3]'", "pip install ./bay_sandbox-0.1.0-py3-none-any.whl", "npm install ws"),
        f"npm install /path/to/the/clone/clients/typescript\nThe package `{name}` is a module",
        *(f'import {{ Client }} from "{name}"', f"/opt/{name}/share/bay", f"the namespace {name}es"),
    ):
        assert list(checks.findings("page.md", right)) == [], right
