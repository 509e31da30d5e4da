"""Exports and imports archives as streams, each in a process that packs or unpacks. Only a pipe buffers."""

import asyncio
import contextlib
import json
import sys
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from bay.cargo.manifest import Manifest
from bay.errors import BadRequest, BayError, DriverUnavailable, StorageFull

T = TypeVar("T")

CHUNK = 1 << 16
_PROGRAM = "bay.cargo.export_process"
_STALL_S = 300.0
"""How long the process may take for its next step: to give or take bytes, or to end."""
_LONGEST_VERDICT = 1 << 17
_ERRORS: dict[str, type[BayError]] = {BadRequest.code: BadRequest, StorageFull.code: StorageFull}


async def export_stream(
    path: Path, facts: Manifest, counts: dict[str, int] | None = None
) -> AsyncGenerator[bytes]:
    """The checkpoint in the directory `path`, by 64 KiB at most; closing the generator kills its process.
    At the end `counts` has the number of `entries`.
    Raises BadRequest when it cannot be carried and DriverUnavailable when the host refuses: then what was
    given has no end, and no import takes it.
    """
    told = facts.to_json().encode()
    async with aclosing(packed_stream(_PROGRAM, ["export", str(path)], told, counts)) as chunks:
        async for chunk in chunks:
            yield chunk


async def packed_stream(
    program: str, arguments: Sequence[str], told: bytes, counts: dict[str, int] | None = None
) -> AsyncGenerator[bytes]:
    """The output of the module `program`, which reads `told`, by 64 KiB at most; closing the generator kills
    it. Its last words, on stderr, are one line of JSON, whose numbers go into `counts`. Raises the error
    there, or DriverUnavailable.
    """
    async with _process(program, *arguments) as process:
        await _bring(process, told)
        out = cast("StreamReader", process.stdout)
        while chunk := await _in_time(out.read(CHUNK)):
            yield chunk
        said = await _verdict(process)
        if counts is not None:
            counts |= {name: value for name, value in said.items() if type(value) is int}


async def import_stream(chunks: AsyncIterable[bytes], path: Path, max_bytes: int | None) -> Manifest:
    """Unpack what `export_stream` gave into the empty directory `path`; gives what it says of its checkpoint.
    Raises BadRequest for a damaged or foreign archive, StorageFull for more than `max_bytes` or than the file
    system takes, and DriverUnavailable. Then, and when cancelled, `path` has parts that no process writes.
    """
    limit = () if max_bytes is None else ("--max-bytes", str(max_bytes))
    async with _process(_PROGRAM, "import", str(path), *limit) as process:
        async for chunk in chunks:
            if not await _bring(process, chunk, end=False):
                break
        await _bring(process, b"")
        return Manifest.from_json(json.dumps((await _verdict(process))["facts"]))


async def checked_stream(
    chunks: AsyncIterable[bytes], facts: list[Manifest], counts: dict[str, int], max_bytes: int | None
) -> AsyncGenerator[bytes]:
    """The same archive, as it comes, which a process reads too. At the end `facts` has what it says of its
    checkpoint, and `counts` the `entries` and `bytes` of its files. Raises as `import_stream`.
    """
    limit = () if max_bytes is None else ("--max-bytes", str(max_bytes))
    async with _process(_PROGRAM, "check", *limit) as process:
        async for chunk in chunks:
            if not await _bring(process, chunk, end=False):
                break
            yield chunk
        await _bring(process, b"")
        said = await _verdict(process)
    facts.append(Manifest.from_json(json.dumps(said["facts"])))
    counts |= {name: int(said[name]) for name in ("entries", "bytes")}


@asynccontextmanager
async def _process(program: str, *arguments: str) -> AsyncGenerator[Process]:
    """The one place where such a process is started; it has ended when this is left, in whatever way."""
    command = [sys.executable, "-P", "-m", program, *arguments]
    out = DEVNULL if arguments and arguments[0] in ("import", "check") else PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=out, stderr=PIPE, limit=CHUNK
        )
    except OSError as error:
        raise DriverUnavailable(f"no process for an archive could be started: {error.strerror}") from error
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.shield(process.communicate())  # bytes in its pipes would keep it from being reaped


async def _bring(process: Process, data: bytes, *, end: bool = True) -> bool:
    """Hand `data` to the process and wait until it has room; False when it stopped reading."""
    into = cast("StreamWriter", process.stdin)
    try:
        into.write(data)
        await _in_time(into.drain())
    except (BrokenPipeError, ConnectionResetError):
        return False
    finally:
        if end:
            into.close()
    return True


async def _verdict(process: Process) -> dict[str, Any]:
    """The process's final report."""
    words = cast("StreamReader", process.stderr)
    said = await _in_time(words.read(_LONGEST_VERDICT))
    status = await _in_time(process.wait())
    found = _last_line(said)
    if status == 0 and found:
        return found
    message = found.get("message") or f"the process for an archive ended with {status}"
    raise _ERRORS.get(str(found.get("error")), DriverUnavailable)(str(message))


def _last_line(said: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError, IndexError):
        found = json.loads(said.splitlines()[-1])
        return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    return {}


async def _in_time(step: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(_STALL_S):
            return await step
    except TimeoutError:
        raise DriverUnavailable(f"the process for an archive made no progress for {_STALL_S:g} s") from None
