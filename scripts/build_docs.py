"""Build the site of the documentation, which the server has at `/docs/` and the wheel brings.

    python -m scripts.build_docs MKDOCS [FOLDER]

The pages are the Markdown files of `docs/` and some of the root, as they are, side by side, with the pictures
that they show. Where they link
to a file that is no page, such as a note on a decision or the architecture, which people read who have the
tree, the copy that is built names it alone. Material puts
small scripts into each page. The site has them as files, so that its pages stand under the same policy as the
others of the server, which allows no script in a page.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from scripts import packing

ROOT = Path(__file__).parents[1]
SITE = ROOT / "src/bay/server/web/site"
OF_THE_ROOT = ("CHANGELOG.md", "SECURITY.md", "SPECIFICATION.md")

_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
_PICTURE = re.compile(r"!\[[^\]]*\]\((images/[^)\s]+)\)")
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_INLINE = re.compile(
    r"<script(?![^>]*\bsrc=)(?![^>]*application/json)|<style|\sstyle=|\son\w+=", re.IGNORECASE
)
_ELSEWHERE = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//", re.IGNORECASE)
_SPACES = re.compile(r'<span class="w">(\s*)</span>')
_BLOCK = (
    "article|aside|body|div|footer|form|h[1-6]|head|header|li|link|main|meta|nav|ol|p|script|section|"
    "t[dhr]|table|tbody|thead|ul"
)
_AT_BLOCKS = re.compile(rf"\n(?=</?(?:{_BLOCK})\b)")
_NAMESPACE = re.compile('<svg xmlns="http://www.w3.org/2000/svg"')
_UNUSED = (
    "404.html",
    "sitemap.xml",
    "sitemap.xml.gz",
    "**/*.map",
    "assets/javascripts/lunr",
    "assets/images",
)


class Unfit(Exception):
    """The site could not be built, or not so that the server's policy allows it."""


def in_the_site(page: str, link: str) -> str | None:
    """A link of a page, by its path in the tree, as the site has it; None when it leads to no page of it."""
    if re.match(r"[a-z]+:|#|/", link):
        return link
    name, hash_, anchor = link.partition("#")
    target = os.path.normpath(os.path.join(os.path.dirname(page), name))
    is_page = target in OF_THE_ROOT or re.fullmatch(r"docs/[^/]+\.md", target) is not None
    return f"{os.path.basename(target)}{hash_}{anchor}" if is_page else None


def rewritten(page: str, text: str) -> str:
    """A page with its links as the site has them."""

    def link(found: re.Match[str]) -> str:
        to = in_the_site(page, found[2])
        return found[1] if to is None else f"[{found[1]}]({to})"

    return _LINK.sub(link, text)


def gather(folder: Path) -> None:
    """Put the pages into a folder, side by side."""
    folder.mkdir()
    for source in [*ROOT.glob("docs/*.md"), *(ROOT / name for name in OF_THE_ROOT)]:
        text = rewritten(str(source.relative_to(ROOT)), source.read_text(encoding="utf-8"))
        (folder / source.name).write_text(text, encoding="utf-8")
        for name in _PICTURE.findall(text):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source.parent / name, folder / name)


def scripts_as_files(page: str, files: dict[str, str]) -> str:
    """A page whose scripts are files, which are put into `files` by their names in the site."""

    def script(found: re.Match[str]) -> str:
        name = f"assets/javascripts/page.{hashlib.sha256(found[1].encode()).hexdigest()[:8]}.js"
        files[name] = found[1]
        return f'<script src="{name}"></script>'

    return _SCRIPT.sub(script, page)


def without_indents(page: str) -> str:
    """A page without the spaces at the begins of lines, half of some pages, and without the ends of lines
    before blocks, but where they are shown.
    """
    parts = re.split(r"(<pre\b.*?</pre>)", page, flags=re.DOTALL)
    return "".join(
        part if n % 2 else _AT_BLOCKS.sub("", re.sub(r"\n\s+", "\n", part)) for n, part in enumerate(parts)
    )


def without_unseen(page: str) -> str:
    """A page without markup that changes nothing of what is shown."""
    return _NAMESPACE.sub("<svg", _SPACES.sub(r"\1", page))


def _in_plain(index: Path) -> None:
    """Take the marks of code out of the texts that a search looks through: a tenth of all."""
    text = index.read_text(encoding="utf-8")
    index.write_text(re.sub("</?code>", "", text), encoding="utf-8")


def finish(site: Path) -> None:
    """Take out of a site what it does not need, and what its policy refuses. Raises Unfit."""
    for pattern in _UNUSED:
        for path in site.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    files: dict[str, str] = {}
    for page in site.glob("*.html"):
        text = without_unseen(without_indents(scripts_as_files(page.read_text(encoding="utf-8"), files)))
        for name, unfit in (("refuses", _INLINE), ("has no other host for", _ELSEWHERE)):
            if found := unfit.search(text):
                raise Unfit(f"{page.name}: the policy {name}: {text[found.start() : found.start() + 120]}")
        page.write_text(text, encoding="utf-8")
    _in_plain(site / "search/search_index.json")
    for name, script in files.items():
        (site / name).write_text(script, encoding="utf-8")


def pack(site: Path) -> None:
    """Have each file as gzip alone, which the server unpacks for clients that do not take it. Pictures are
    packed already.
    """
    packing.pack(one for one in site.rglob("*") if one.is_file() and one.suffix != ".webp")


def build(mkdocs: str, to: Path) -> None:
    """Build the site into a folder, which is replaced. Raises Unfit."""
    with tempfile.TemporaryDirectory() as work:
        pages, site = Path(work, "pages"), Path(work, "site")
        gather(pages)
        done = subprocess.run(  # --quiet would hide warnings from --strict too
            [mkdocs, "build", "--strict", "--config-file", ROOT / "mkdocs.yml"],
            env={
                **os.environ,
                "NO_MKDOCS_2_WARNING": "1",
                "BAY_DOCS_PAGES": str(pages),
                "BAY_DOCS_SITE": str(site),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Unfit(done.stdout)
        finish(site)
        pack(site)
        shutil.rmtree(to, ignore_errors=True)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(site, to)


if __name__ == "__main__":
    try:
        build(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else SITE)
    except Unfit as unfit:
        sys.exit(f"docs: {unfit}")
