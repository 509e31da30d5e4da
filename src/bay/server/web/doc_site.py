"""The site of the documentation, as `make docs` builds it and the wheel brings it.

Its files are listed once, at the start. A request names one of the list or gets nothing, so no path of a
request ever becomes a path of this host.
"""

import os
from pathlib import Path

from anyio.to_thread import run_sync
from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse

BUILT = Path(__file__).with_name("site")
"""Where `scripts/build_docs.py` puts it."""

TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
}


class DocSite:
    """The files of a folder by the names that requests have for them; none when it was not built."""

    def __init__(self, folder: Path = BUILT) -> None:
        found = (path for path in folder.rglob("*") if path.suffix in TYPES and path.is_file())
        self._files = {path.relative_to(folder).as_posix(): path for path in found}

    @property
    def is_built(self) -> bool:
        """Whether there is a first page."""
        return "index.html" in self._files

    async def answer(self, name: str, given: Headers, headers: dict[str, str]) -> Response | None:
        """A file, or 304 for a client that has it; None when there is none of that name."""
        path = self._files.get(name or "index.html")
        return None if path is None else await file_answer(path, given, headers)


async def file_answer(path: Path, given: Headers, headers: dict[str, str]) -> Response | None:
    """A file with its tag, or 304 for a client whose tag is the same; None when it was removed."""
    try:
        facts = await run_sync(os.stat, path)
    except FileNotFoundError:
        return None  # built again since the list was made
    answer = FileResponse(path, headers=headers, media_type=TYPES[path.suffix], stat_result=facts)
    tags = [tag.strip().removeprefix("W/") for tag in given.get("if-none-match", "").split(",")]
    return NotModifiedResponse(answer.headers) if answer.headers["etag"] in tags else answer
