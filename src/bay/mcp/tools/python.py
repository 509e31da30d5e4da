"""Python code in the sandbox's kernel, with its figures as images."""

from base64 import b64encode

import mcp_types as types
from pydantic import Field

import bay
from bay.mcp.bounds import BLOB_BYTES, MOST_BYTES, OUTPUT_BYTES
from bay.mcp.tool import Arguments, ToolAnswer, Toolbox, ToolCall
from bay.mcp.tools.commands import ticking

TOOLBOX = Toolbox()

_IMAGES = 5
_SHOWN = ("image/png", "image/jpeg", "image/gif", "image/webp")


class PythonArguments(Arguments):
    """Arguments of `python`."""

    code: str = Field(min_length=1)
    timeout_s: float = Field(120, gt=0, le=86400)
    restart: bool = False
    max_bytes: int = Field(OUTPUT_BYTES, ge=100, le=MOST_BYTES)


@TOOLBOX.add(
    "Run Python code in a kernel that keeps its variables between calls. Figures come as images, tables as "
    "text. restart begins with a new kernel."
)
async def python(call: ToolCall, given: PythonArguments) -> ToolAnswer:
    box = await call.agent.sandbox(given.sandbox)
    if given.restart:
        await _restart(box)
    async with ticking(call, "the code runs"):
        result = await box.python.run(given.code, given.timeout_s, attached=True)
    images = [image for image in result.images if image.media_type in _SHOWN and len(image) <= BLOB_BYTES]
    beside = tuple(
        types.ImageContent(data=b64encode(image).decode(), mime_type=image.media_type)
        for image in images[:_IMAGES]
    )
    data = {"status": result.status, "images": len(result.images), "output": str(result)[-given.max_bytes :]}
    return ToolAnswer(_said(result, given.max_bytes, len(beside)), data, beside, failed=result.status != "ok")


async def _restart(box: bay.AsyncBox) -> None:
    for kernel in await box.kernels.list():
        if kernel.id == "default":
            await kernel.restart()


def _said(result: bay.CellResult, most: int, shown: int) -> str:
    text = "\n".join(part for part in (str(result), result.traceback) if part)
    notes = [f"[{len(text) - most} characters before this are left out]"] if len(text) > most else []
    notes.append(text[-most:])
    if len(result.images) > shown:
        notes.append(
            f"[{len(result.images) - shown} images are left out: too many, too large or SVG; save them]"
        )
    if result.restarted:
        notes.append("[the kernel is a new one: its variables are gone]")
    return "\n".join(filter(None, notes)) or f"[ok after {result.duration_s:.1f} s, no output]"
