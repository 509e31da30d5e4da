"""Python code in the sandbox's kernel, with its figures as images."""

from base64 import b64encode

import mcp_types as types
from pydantic import Field

import bay
from bay.mcp.bounds import BLOB_BYTES, MOST_BYTES, OUTPUT_BYTES, shown, tail_of
from bay.mcp.tool import Arguments, ToolAnswer, Toolbox, ToolCall

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
    result = await box.python.run(given.code, given.timeout_s, attached=True)
    images = [image for image in result.images if image.media_type in _SHOWN and len(image) <= BLOB_BYTES]
    beside = tuple(
        types.ImageContent(data=b64encode(image).decode(), mime_type=image.media_type)
        for image in images[:_IMAGES]
    )
    output, before = tail_of(shown(_text(result)), given.max_bytes)
    notes = [f"[{before} bytes before this are left out]"] if before else []
    data = {"status": result.status, "images": len(result.images), "output": output}
    said = "\n".join(filter(None, (*notes, output, *_remarks(result, len(beside)))))
    said = said or f"[ok after {result.duration_s:.1f} s, no output]"
    return ToolAnswer(said, data, beside, failed=result.status != "ok")


async def _restart(box: bay.AsyncBox) -> None:
    for kernel in await box.kernels.list():
        if kernel.id == "default":
            await kernel.restart()


def _text(result: bay.CellResult) -> str:
    return "\n".join(part for part in (str(result), result.traceback) if part)


def _remarks(result: bay.CellResult, images: int) -> list[str]:
    """The things that an agent could not know from the output, of which `images` images are given."""
    remarks: list[str] = []
    if left_out := len(result.images) - images:
        remarks.append(f"[{left_out} images are left out: too many, too large or SVG; save them]")
    if result.restarted:
        remarks.append("[the kernel is a new one: its variables are gone]")
    return remarks
