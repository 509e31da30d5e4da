"""What `import bay` gives, and what it costs."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import bay
from bay import errors

ROOT = Path(__file__).parents[2]


def loaded_after(code: str) -> set[str]:
    """The modules in `sys.modules` after `code` ran in a fresh interpreter."""
    script = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    return set(done.stdout.split())


def test_exports_are_sorted_and_all_there() -> None:
    assert bay.__all__ == sorted(bay.__all__)
    assert [name for name in bay.__all__ if getattr(bay, name, None) is None] == []


def test_every_error_is_exported() -> None:
    names = {
        cls.__name__
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, bay.BayError)
    }
    assert names <= set(bay.__all__)


def test_an_export_is_always_the_same_object() -> None:
    assert bay.Client is bay.Client
    assert bay.NotFound is errors.NotFound


def test_what_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Klient'"):
        _ = bay.Klient  # type: ignore[attr-defined]


def test_dir_lists_the_exports() -> None:
    assert set(bay.__all__) <= set(dir(bay))


@pytest.mark.parametrize("name", ["AsyncClient", "Box", "Client", "CommandFailed", "Proc", "RunResult"])
def test_classes_say_that_they_live_in_bay(name: str) -> None:
    assert getattr(bay, name).__module__ == "bay"


def test_the_version_is_the_one_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    source = ROOT / project["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{bay.__version__}"' in source.read_text(encoding="utf-8")


def test_import_bay_loads_no_library() -> None:
    loaded = loaded_after("import bay")
    assert loaded.isdisjoint({"httpx", "anyio", "fastapi", "rich", "typer", "bay.client", "bay.errors"})


def test_an_error_is_had_without_an_http_client() -> None:
    assert "httpx" not in loaded_after("import bay; bay.NotFound")


def test_the_websocket_library_is_loaded_when_something_is_attached_to() -> None:
    assert "websockets" not in loaded_after("import bay; bay.Client; bay.Attachment")


def test_the_sync_client_is_what_the_generator_makes_of_the_async_one() -> None:
    script = [sys.executable, str(ROOT / "scripts" / "generate_sync.py"), "--check"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_each_client_does_without_the_other_and_without_httpx_s_command_line() -> None:
    """httpx, with its own command line left out, is whole for whoever imports it next."""
    loaded = loaded_after("import bay; bay.Client('http://x'); import httpx, httpx._main; httpx.main")
    assert "bay.client._async" not in loaded
    assert "bay.client._sync" not in loaded_after("import bay; bay.AsyncClient('http://x')")
    assert loaded_after("import bay; bay.Client('http://x')").isdisjoint({"rich", "pygments", "asyncio"})


def test_a_client_for_threads_loads_no_tasks_and_streams_of_anyio() -> None:
    loaded = loaded_after("import bay; bay.Client()")
    assert not {"anyio._core._tasks", "anyio._core._synchronization", "anyio.streams.memory"} & loaded
