"""Files: reading, writing, editing, listing, searching, and moving bytes in and out."""

from base64 import b64decode, b64encode

import mcp_types as types
from pydantic import Field

import bay
from bay.mcp.bounds import BLOB_BYTES, MOST_BYTES, OUTPUT_BYTES, first_lines, whole_text
from bay.mcp.resources import uri_of
from bay.mcp.tool import Arguments, ToolAnswer, Toolbox, ToolCall

TOOLBOX = Toolbox()

_MAGIC = {b"\x89PNG\r\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}


class ReadFileArguments(Arguments):
    """Arguments of `read_file`."""

    path: str
    offset: int = Field(0, ge=0)
    max_bytes: int = Field(OUTPUT_BYTES, ge=100, le=MOST_BYTES)


@TOOLBOX.add("Read a text file from a byte offset, or an image.", reads=True)
async def read_file(call: ToolCall, given: ReadFileArguments) -> ToolAnswer:
    box = await call.agent.sandbox(given.sandbox)
    # One byte more than there is room for says whether there is more: files of /proc have a size of 0.
    data = await box.files.read(given.path, given.offset, given.max_bytes + 1)
    if given.offset == 0 and (kind := image_kind(data)) is not None:
        return await _image(box, given.path, kind)
    if b"\0" in data:
        raise bay.InvalidArgument(f"{given.path} is no text; download gives its bytes")
    text, taken = whole_text(data[: given.max_bytes], is_end=len(data) <= given.max_bytes)
    more = given.offset + taken if len(data) > taken else None
    note = "" if more is None else f"\n[more at offset={more}]"
    return ToolAnswer(text + note, {"content": text, "next_offset": more})


def image_kind(data: bytes) -> str | None:
    """The media type of an image that an agent can look at, by its first bytes."""
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)


async def _image(box: bay.AsyncBox, path: str, kind: str) -> ToolAnswer:
    data = await box.files.read(path, 0, BLOB_BYTES + 1)  # whatever size it said a moment ago
    if len(data) > BLOB_BYTES:
        raise bay.PayloadTooLarge(f"the image {path} has more than {BLOB_BYTES} bytes; make it smaller")
    image = types.ImageContent(data=b64encode(data).decode(), mime_type=kind)
    return ToolAnswer(
        f"[{path}: {kind}, {len(data)} bytes]", {"size": len(data), "mime_type": kind}, (image,)
    )


class WriteFileArguments(Arguments):
    """Arguments of `write_file`."""

    path: str
    content: str


@TOOLBOX.add("Write a text file whole, with its directories.")
async def write_file(call: ToolCall, given: WriteFileArguments) -> ToolAnswer:
    box = await call.agent.sandbox(given.sandbox)
    size = await box.files.write(given.path, given.content)
    return ToolAnswer(f"[wrote {size} bytes to {given.path}]", {"size": size})


class EditFileArguments(Arguments):
    """Arguments of `edit_file`."""

    path: str
    old: str = Field(min_length=1)
    new: str
    all: bool = False


@TOOLBOX.add("Replace old by new in a text file; old must be there exactly once, unless all.")
async def edit_file(call: ToolCall, given: EditFileArguments) -> ToolAnswer:
    box = await call.agent.sandbox(given.sandbox)
    count = await box.files.edit(given.path, given.old, given.new, given.all)
    return ToolAnswer(f"[replaced {count}]", {"replaced": count})


class ListFilesArguments(Arguments):
    """Arguments of `list_files`."""

    path: str = "."
    depth: int = Field(1, ge=1, le=64)
    glob: str | None = None
    limit: int = Field(200, ge=1, le=2000)


@TOOLBOX.add("List a directory, to a depth, with sizes.", reads=True)
async def list_files(call: ToolCall, given: ListFilesArguments) -> ToolAnswer:
    box = await call.agent.sandbox(given.sandbox)
    found = await box.files.list(given.path, given.depth, given.glob, given.limit + 1)
    lines, cut = first_lines(map(_entry_line, found[: given.limit]))
    paths = [entry.path for entry in found[: len(lines)]]
    if more := cut or len(found) > given.limit:
        lines.append(f"[there are more than these {len(paths)}; list a part, or with a glob]")
    return ToolAnswer("\n".join(lines) or "[empty]", {"paths": paths, "truncated": more})


def _entry_line(entry: bay.FileInfo) -> str:
    kind = "/" if entry.is_dir else f" {entry.size}" if entry.is_file else f" {entry.type}"
    return f"{entry.path}{kind}"


class SearchFilesArguments(Arguments):
    """Arguments of `search_files`."""

    query: str = Field(min_length=1)
    path: str = "."
    glob: str | None = None
    regex: bool = False
    ignore_case: bool = False
    limit: int = Field(50, ge=1, le=500)


@TOOLBOX.add("Find lines of text files. Hidden and git-ignored files are passed over.", reads=True)
async def search_files(call: ToolCall, given: SearchFilesArguments) -> ToolAnswer:
    box = await call.agent.sandbox(given.sandbox)
    result = await box.files.search(
        given.query,
        given.path,
        glob=given.glob,
        regex=given.regex,
        ignore_case=given.ignore_case,
        limit=given.limit,
    )
    found = [f"{match.path}:{match.line}: {match.text}" for match in result.matches]
    lines, cut = first_lines(found)
    data = {"matches": list(lines), "truncated": cut or result.truncated}
    if data["truncated"]:
        lines.append("[there is more; narrow the query, the path or the glob]")
    return ToolAnswer("\n".join(lines) or f"[no match in {result.files_searched} files]", data)


class UploadArguments(Arguments):
    """Arguments of `upload`."""

    path: str
    base64: str


@TOOLBOX.add("Write a file of any bytes, given as base64.")
async def upload(call: ToolCall, given: UploadArguments) -> ToolAnswer:
    try:
        data = b64decode(given.base64, validate=True)
    except ValueError as error:  # also text beyond ASCII
        raise bay.InvalidArgument("base64 is not valid; encode the bytes again") from error
    box = await call.agent.sandbox(given.sandbox)
    size = await box.files.write(given.path, data)
    return ToolAnswer(f"[wrote {size} bytes to {given.path}]", {"size": size})


class DownloadArguments(Arguments):
    """Arguments of `download`."""

    path: str
    offset: int = Field(0, ge=0)


@TOOLBOX.add(
    "Give a file's bytes to the client, up to 4 MiB from offset. Read text with read_file.", reads=True
)
async def download(call: ToolCall, given: DownloadArguments) -> ToolAnswer:
    box = await call.agent.sandbox(given.sandbox)
    found = await box.files.stat(given.path)
    data = await box.files.read(given.path, given.offset, BLOB_BYTES + 1)
    more = given.offset + BLOB_BYTES if len(data) > BLOB_BYTES else None
    data = data[:BLOB_BYTES]
    blob = types.BlobResourceContents(
        uri=uri_of(box.name or box.id, found.path),
        blob=b64encode(data).decode(),
        mime_type="application/octet-stream",
    )
    rest = "" if more is None else f"; more at offset={more}"
    return ToolAnswer(
        f"[{len(data)} bytes{rest}]", {"next_offset": more}, (types.EmbeddedResource(resource=blob),)
    )
