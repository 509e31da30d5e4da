"""Folders of files that a build has made: the documentation (`make docs`) and the console (`make console`).

The files of a folder are listed once, at the start. A request names one of the list or gets nothing, so no
path of a request ever becomes a path of this host. They are there as gzip, a quarter of their size, and
most clients take them as they are.
"""

import gzip
import os
import re
from hashlib import sha256
from pathlib import Path

from anyio.to_thread import run_sync
from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse

DOCS = Path(__file__).with_name("site")
"""Where `scripts/build_docs.py` puts the documentation."""

CONSOLE = Path(__file__).with_name("console")
"""Where the build of the console puts its files."""

TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}

PACKED = ".gz"
_GZIP = re.compile(r"(?:^|,)\s*gzip\s*(?:;\s*q=(?!0(?:\.0*)?\s*(?:,|$))[^,]*)?(?:,|$)", re.IGNORECASE)


class StaticSite:
    """The files of a folder by the names that requests have for them, without the `.gz` of those that are
    packed; none when it was not built.
    """

    def __init__(self, folder: Path) -> None:
        found = ((path, path.relative_to(folder).as_posix()) for path in folder.rglob("*") if path.is_file())
        named = {name.removesuffix(PACKED): path for path, name in found}
        self._files = {name: path for name, path in named.items() if os.path.splitext(name)[1] in TYPES}

    @property
    def is_built(self) -> bool:
        """Whether there is a first page."""
        return "index.html" in self._files

    async def answer(self, name: str, given: Headers, headers: dict[str, str]) -> Response | None:
        """A file, or 304 for a client that has it; None when there is none of that name."""
        path = self._files.get(name or "index.html")
        if path is None:
            return None
        if path.suffix != PACKED:
            return await file_answer(path, given, headers)
        headers = {**headers, "Vary": "Accept-Encoding"}
        if _GZIP.search(given.get("accept-encoding", "")):
            return await file_answer(path, given, {**headers, "Content-Encoding": "gzip"})
        return await _unpacked_answer(path, given, headers)

    async def text(self, name: str) -> str | None:
        """The text of a file that is not packed; None when there is none of that name."""
        path = self._files.get(name)
        try:
            return None if path is None else await run_sync(path.read_text, "utf-8")
        except FileNotFoundError:
            return None


async def file_answer(path: Path, given: Headers, headers: dict[str, str]) -> Response | None:
    """A file with its tag, or 304 for a client whose tag is the same; None when it was removed."""
    try:
        facts = await run_sync(os.stat, path)
    except FileNotFoundError:
        return None  # built again since the list was made
    return _or_not_modified(
        FileResponse(path, headers=headers, media_type=_type_of(path), stat_result=facts), given
    )


async def _unpacked_answer(path: Path, given: Headers, headers: dict[str, str]) -> Response | None:
    """The same of the file that is packed in `path`, for a client that takes no gzip."""
    try:
        packed = await run_sync(path.read_bytes)
    except FileNotFoundError:
        return None
    content = await run_sync(gzip.decompress, packed)
    tag = f'"{sha256(packed).hexdigest()[:32]}-plain"'
    return _or_not_modified(
        Response(content, headers={**headers, "ETag": tag}, media_type=_type_of(path)), given
    )


def _or_not_modified(answer: Response, given: Headers) -> Response:
    tags = [tag.strip().removeprefix("W/") for tag in given.get("if-none-match", "").split(",")]
    return NotModifiedResponse(answer.headers) if answer.headers["etag"] in tags else answer


def _type_of(path: Path) -> str:
    return TYPES[Path(path.name.removesuffix(PACKED)).suffix]
