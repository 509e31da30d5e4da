"""The documentation is held to the code: routes, settings, errors, commands and links. Its blocks are run by
`tests/docs`.
"""

import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from fastapi.routing import APIRouter, APIWebSocketRoute
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bay.cli.app import app as cli
from bay.client._frames import close_error
from bay.errors import BY_CODE, ConnectionFailed
from bay.server.app import FORMATS, build_app
from bay.server.settings import (
    IsolationSettings,
    KubernetesSettings,
    ObjectStoreSettings,
    ProfileSettings,
    Settings,
    load,
)
from bay.server.web.websocket_close import CODES
from bay.server.web.wire_format import format_of
from ship_protocol import CloseCode

ROOT = Path(__file__).parents[2]
METHODS = ("get", "put", "post", "delete", "patch")
ROUTE = re.compile(r"^- `(GET|PUT|POST|DELETE|PATCH|WS) (/[^` ?]*)[^`]*`\\$", re.MULTILINE)
LONGEST_LINE = 140
LONGEST_OF_A_PAGE = 110
HIDDEN_SUBJECT = re.compile(
    r"(?m)(?:^[ \t]*(?:[-#|]+ |\d+\. )?|[.!?][*`)\"]*\s+|\| )\**(?:What|Whoever|Nobody)\b[^\n]{0,40}"
)
FENCE = re.compile(r"(?ms)^( *)```(\w*)[^\n]*\n(.*?)^ *```$")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def documents() -> list[Path]:
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z", "*.md"]
    names = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    return [path for name in names.split("\0") if name and (path := ROOT / name).is_file()]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def nameless(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)


def test_every_route_is_documented_and_every_documented_route_exists(tmp_path: Path) -> None:
    settings = load(driver="fake", data_dir=tmp_path / "data", run_dir=tmp_path / "run")
    app = build_app(settings)
    paths = app.openapi()["paths"]
    routes = {(m.upper(), nameless(path)) for path, item in paths.items() for m in METHODS if m in item}
    sockets = (path for path in websockets(app.routes) if format_of(FORMATS, path) is None)
    routes |= {("WS", nameless(path)) for path in sockets}  # other people's have tables of their own
    documented = {(method, nameless(path)) for method, path in ROUTE.findall(read("docs/api.md"))}
    assert documented == routes


def websockets(routes: Iterable[object]) -> Iterator[str]:
    """The paths of WebSockets, which OpenAPI leaves out, also in routers that were included."""
    for route in routes:
        if isinstance(route, APIWebSocketRoute):
            yield route.path
        elif isinstance(router := getattr(route, "original_router", None), APIRouter):
            yield from websockets(router.routes)


def default_of(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value in ({}, "", ()):
        return "empty"
    if isinstance(value, dict):
        return "see below"
    return "none" if value is None else f"`{show(value)}`"


def show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)  # pyright: ignore[reportUnknownArgumentType]


def setting_rows() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        yield f"| `{name}` | `BAY_{name.upper()}` | {default_of(field)} | {field.description} |"


def profile_rows() -> Iterator[str]:
    for name, field in ProfileSettings.model_fields.items():
        yield f"| `{name}` | {default_of(field)} | {field.description} |"


def table_rows(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else default_of(field)
        yield f"| `{name}` | {default} | {field.description} |"


TABLES = (ObjectStoreSettings, KubernetesSettings, IsolationSettings)
ROWS = [*setting_rows(), *profile_rows(), *(row for table in TABLES for row in table_rows(table))]


@pytest.mark.parametrize("line", ROWS, ids=lambda line: line.split("`")[1])
def test_every_setting_is_documented_as_it_is(line: str) -> None:
    assert line in read("docs/settings.md").splitlines()


@pytest.mark.parametrize("model", [Settings, ProfileSettings, *TABLES])
def test_every_setting_says_what_it_is(model: type[BaseModel]) -> None:
    assert [name for name, field in model.model_fields.items() if not field.description] == []


def test_no_setting_is_documented_that_does_not_exist() -> None:
    documented = set(re.findall(r"(?m)^\| `(\w+)` \|", read("docs/settings.md")))
    tables = Settings, ProfileSettings, *TABLES
    assert documented == {name for table in tables for name in table.model_fields}


def error_rows() -> dict[str, tuple[str, ...]]:
    """The cells of docs/errors.md by error code."""
    rows = re.findall(r"(?m)^\| `(\w+)` \|(.*)\|$", read("docs/errors.md"))
    return {code: tuple(cell.strip().strip("`") for cell in rest.split(" | ")) for code, rest in rows}


@pytest.mark.parametrize("code", BY_CODE)
def test_every_error_code_is_documented_as_it_is(code: str) -> None:
    cls = BY_CODE[code]
    status = str(cls.status) if cls.status else "none"
    facts = (cls.__name__, status, "yes" if cls.retryable else "no", str(cls.exit_code))
    assert error_rows()[code][:4] == facts


def test_no_error_code_is_documented_that_does_not_exist() -> None:
    assert set(error_rows()) <= set(BY_CODE)


def test_every_error_says_what_it_means() -> None:
    assert [code for code, cells in error_rows().items() if len(cells) != 5 or len(cells[4]) < 20] == []


def test_every_close_code_of_an_attachment_is_documented() -> None:
    documented = {int(code) for code in re.findall(r"(?m)^\| (\d{4}) \|", read("docs/errors.md"))}
    assert documented == {1000, 1009, 1011, 1012, CloseCode.UNREACHABLE, *CODES.values()}


@pytest.mark.parametrize("code", [1009, 1011, 1012, CloseCode.UNREACHABLE, *CODES.values()])
def test_the_sdk_comes_back_after_the_close_codes_that_say_so(code: int) -> None:
    row = re.search(rf"(?m)^\| {code} \|.*$", read("docs/errors.md"))
    assert row is not None
    comes_back = isinstance(close_error(code, "", "http://bay"), ConnectionFailed)
    assert comes_back == row[0].endswith("| Come back by offset. |")


def commands() -> list[str]:
    group = typer.main.get_command(cli)
    return sorted(group.list_commands(typer.Context(group)))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", commands())
def test_every_cli_command_is_documented(name: str) -> None:
    assert re.search(rf"(?m)^#+ `?bay {name}\b", read("docs/cli.md"))


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a page that may be broken anywhere: neither code nor rows of a table."""
    is_code = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif not is_code and not line.lstrip().startswith("|"):
            yield number, line


@pytest.mark.parametrize("path", sorted((ROOT / "docs/design").glob("*.md")), ids=lambda path: path.name)
def test_lines_of_the_design_notes_are_short(path: Path) -> None:
    assert [number for number, line in prose(path) if len(line) > LONGEST_LINE] == []


PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_lines_of_the_pages_hold_110_columns(path: Path) -> None:
    assert [n for n, line in prose(path) if len(LINK.sub("", line)) > LONGEST_OF_A_PAGE] == []


def without_fences(path: Path) -> str:
    return FENCE.sub("", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_sentence_hides_its_subject(path: Path) -> None:
    """A sentence, heading, item or cell begins with an actor and not with a question word that stands for
    one.
    """
    assert HIDDEN_SUBJECT.findall(without_fences(path)) == []


def test_hidden_subjects_are_found_where_sentences_begin() -> None:
    hidden = ("What is", "Whoever ", "Nobody ")
    starts = ("", "## ", "- ", "  1. ", "- **", "| ", "It ends. ", "It ends.\n", "It ends (`x`): a.  ")
    assert [s + word for s in starts for word in hidden if not HIDDEN_SUBJECT.search(s + word)] == []
    assert not HIDDEN_SUBJECT.search("It says what is there, and\nnobody sees it. Whatever happens, it ends.")


def slugs(path: Path) -> set[str]:
    headings = re.findall(r"(?m)^#+ +(.+?)\s*$", path.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(path: Path) -> Iterator[str]:
    """The relative links of `path` that lead nowhere."""
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path if not name else path.parent / name
        if not target.exists() or (anchor and anchor not in slugs(target)):
            yield link


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path: Path) -> None:
    assert list(broken(path)) == []


def test_every_document_is_in_the_index() -> None:
    index = read("docs/README.md")
    missing = [p.name for p in (ROOT / "docs").glob("*.md") if p.name != "README.md" and p.name not in index]
    assert missing == []


def test_every_document_is_in_the_sites_contents_once() -> None:
    named = re.findall(r"(?m)^ +- [^:]+: (\S+\.md)$|^  - [^:]+: (\S+\.md)$", read("mkdocs.yml"))
    found = sorted(one or other for one, other in named)
    assert [name for name in found if name.islower()] == sorted(
        path.name for path in (ROOT / "docs").glob("*.md") if path.name != "README.md"
    )


def test_design_notes_have_numbers_of_their_own() -> None:
    names = [path.name for path in (ROOT / "docs/design").glob("*.md")]
    assert [name for name in names if not re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", name)] == []
    assert len({name[:4] for name in names}) == len(names)


def test_change_fragments_are_one_plain_sentence_or_more() -> None:
    fragments = [path for path in (ROOT / "changelog.d").glob("*.md") if path.name != "README.md"]
    assert [
        path.name
        for path in fragments
        if not re.fullmatch(r"[a-z0-9-]+\.(added|changed|fixed|removed|security)\.md", path.name)
    ] == []
