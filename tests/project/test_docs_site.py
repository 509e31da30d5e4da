"""The site of the documentation: its pages as they are built."""

import gzip
import re
from pathlib import Path

import pytest
from scripts import build_docs

from bay.server.web.static_site import DOCS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("page", "link", "there"),
    [
        ("docs/ports.md", "keys.md#audit", "keys.md#audit"),
        ("docs/ports.md", "#links", "#links"),
        ("docs/ports.md", "https://example.com/x.md", "https://example.com/x.md"),
        ("docs/ports.md", "../SECURITY.md#a", "SECURITY.md#a"),
        ("SECURITY.md", "docs/keys.md", "keys.md"),
        ("docs/README.md", "design", None),
        ("docs/ports.md", "design/0001-a.md", None),
        ("docs/deployment.md", "../deploy/nginx.conf", None),
        ("docs/upgrade.md", "../README.md", None),
    ],
)
def test_links_lead_to_their_places_in_the_site(page: str, link: str, there: str | None) -> None:
    assert build_docs.in_the_site(page, link) == there


def test_a_link_to_a_file_of_the_tree_is_its_name() -> None:
    text = "See [`nginx.conf`](../deploy/nginx.conf), [keys](keys.md) and ![x](../y.png)."
    assert build_docs.rewritten("docs/a.md", text) == "See `nginx.conf`, [keys](keys.md) and ![x](../y.png)."


def test_scripts_of_a_page_become_files() -> None:
    files: dict[str, str] = {}
    page = '<script>a()</script><script src="b.js"></script><script type="application/json">{}</script>'
    done = build_docs.scripts_as_files(page, files)
    [name] = files
    assert files[name] == "a()"
    assert done == page.replace("<script>a()</script>", f'<script src="{name}"></script>')


def test_indents_are_kept_where_they_are_shown() -> None:
    page = "<p>\n    a\n  <b>c</b>\n  <pre>b\n    <p></pre>\n\n  d\n  <td>"
    assert build_docs.without_indents(page) == "<p>\na\n<b>c</b>\n<pre>b\n    <p></pre>\nd<td>"


def test_markup_that_shows_nothing_is_left_out() -> None:
    page = '<pre>bay<span class="w"> </span><span class="s1">x</span></pre><svg xmlns="http://www.w3.org/2000/svg" a="b">'
    assert build_docs.without_unseen(page) == '<pre>bay <span class="s1">x</span></pre><svg a="b">'


@pytest.mark.parametrize(
    "part",
    [
        *("<p style='color: red'>", "<style>p{}</style>", '<a onclick="x()">', "<script defer>x()</script>"),
        *('<img src="https://example.com/a.png">', "<link href=//example.com/a.css>"),
    ],
)
def test_a_page_that_the_policy_refuses_is_not_built(tmp_path: Path, part: str) -> None:
    (tmp_path / "index.html").write_text(f"<html>{part}</html>")
    with pytest.raises(build_docs.Unfit):
        build_docs.finish(tmp_path)


@pytest.mark.skipif(not DOCS.is_dir(), reason="needs `make docs`")
def test_the_site_has_every_page() -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"README"} | {"index", "SECURITY"}
    assert pages <= {path.name.removesuffix(".html.gz") for path in DOCS.glob("*.html.gz")}


@pytest.mark.skipif(not DOCS.is_dir(), reason="needs `make docs`")
def test_what_the_pages_load_is_in_the_site() -> None:
    for page in DOCS.glob("*.html.gz"):
        text = gzip.decompress(page.read_bytes()).decode()
        used = re.findall(r'<(?:script|link)[^>]* (?:src|href)="([^"#/][^"#]*)"', text)
        assert [name for name in used if not (DOCS / f"{name}.gz").is_file()] == []
        assert used != []


def test_a_picture_comes_with_the_page_that_shows_it(tmp_path: Path) -> None:
    build_docs.gather(tmp_path / "pages")
    shown = set(re.findall(r"\]\((images/\S+\.webp)\)", (ROOT / "docs/console.md").read_text()))
    assert shown
    assert {path.relative_to(tmp_path / "pages").as_posix() for path in tmp_path.glob("pages/*/*")} == shown


def test_a_picture_is_not_packed_again(tmp_path: Path) -> None:
    for name in ("a.html", "b.webp"):
        (tmp_path / name).write_bytes(b"x")
    build_docs.pack(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.html.gz", "b.webp"}
