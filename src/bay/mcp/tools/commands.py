"""Commands: running them, reading their output by offset, ending them, and the logs of what runs."""

from contextlib import aclosing
from dataclasses import replace

import anyio
from pydantic import Field

import bay
from bay.mcp.bounds import MOST_BYTES, OUTPUT_BYTES, first_lines, shown, whole_text
from bay.mcp.tool import Arguments, ToolAnswer, Toolbox, ToolCall

TOOLBOX = Toolbox()

_EVENTS = 20


class RunArguments(Arguments):
    """Arguments of `run`."""

    command: str = Field(min_length=1)
    timeout_s: float = Field(120, gt=0, le=86400)
    cwd: str | None = None
    stdin: str | None = None
    background: bool = False
    max_bytes: int = Field(OUTPUT_BYTES, ge=100, le=MOST_BYTES)


@TOOLBOX.add(
    "Run a shell command and return the end of its output. It is ended after timeout_s. With background it "
    "goes on (timeout_s does not count) and the exec_id is returned at once; read_output reads on."
)
async def run(call: ToolCall, given: RunArguments) -> ToolAnswer:
    box = await call.agent.sandbox(given.sandbox)
    if given.background:
        return await _started(box, given)
    result = await box.run(
        given.command,
        timeout_s=given.timeout_s,
        cwd=given.cwd,
        stdin=given.stdin,
        max_output_bytes=given.max_bytes,
    )
    return _ended(result, given.max_bytes)


async def _started(box: bay.AsyncBox, given: RunArguments) -> ToolAnswer:
    proc = await box.spawn(given.command, cwd=given.cwd, stdin=given.stdin, wait_for_reader=False)
    text = f'[runs as {proc.id}; read_output(exec_id="{proc.id}") has its output]'
    return ToolAnswer(text, {"exec_id": proc.id, "state": "running"})


def _ended(result: bay.RunResult, most: int) -> ToolAnswer:
    output, notes = shown(result.output), list[str]()
    if result.truncated:
        before = max(0, result.omitted_bytes - most)
        notes.append(
            f"[{result.omitted_bytes} bytes before this are left out; "
            f'read_output(exec_id="{result.exec_id}", offset={before}) has the last of them]'
        )
    took = "" if result.duration_s is None else f" after {result.duration_s:.1f} s"
    # Output that is left out was not asked for, so it is none of the outcome.
    notes += [output.rstrip("\n"), f"[{replace(result, was_read=True).outcome}{took}]"]
    data = {
        "exec_id": result.exec_id,
        "exit_code": result.exit_code,
        "signal": result.signal,
        "timed_out": result.timed_out,
        "omitted_bytes": result.omitted_bytes,
        "output": output,
    }
    return ToolAnswer("\n".join(note for note in notes if note), data, failed=not _succeeded(result))


def _succeeded(result: bay.RunResult) -> bool:
    """Whether it did what it was asked to; output that is left out was not asked for."""
    return result.exit_code == 0 and not result.timed_out


class ReadOutputArguments(Arguments):
    """Arguments of `read_output`."""

    exec_id: str
    offset: int | None = Field(None, ge=0)
    wait_s: float = Field(0, ge=0, le=600)
    max_bytes: int = Field(OUTPUT_BYTES, ge=100, le=MOST_BYTES)


@TOOLBOX.add(
    "Read a command's output from a byte offset (default: its end so far), waiting up to wait_s for max_bytes "
    "or its end. next_offset is where to read on.",
    reads=True,
)
async def read_output(call: ToolCall, given: ReadOutputArguments) -> ToolAnswer:
    box = await call.agent.existing(given.sandbox)
    proc = await box.execs.get(given.exec_id)
    offset = given.offset
    if offset is None:
        offset = max(proc.info.first_offset, proc.info.output_bytes - given.max_bytes)
    try:
        return await _read(proc, offset, given)
    except bay.OutputGone as gone:  # it prints faster than it is read
        first: int = gone.details["first_offset"]
        part = await _read(proc, first, given)
        return replace(part, text=f"[output before offset {first} is no longer kept]\n{part.text}")


async def _read(proc: bay.AsyncProc, offset: int, given: ReadOutputArguments) -> ToolAnswer:
    data = bytearray()
    with anyio.move_on_after(given.wait_s) if given.wait_s else anyio.CancelScope():
        async with aclosing(proc.output(offset, follow=bool(given.wait_s), wait_for_reader=False)) as chunks:
            async for chunk in chunks:
                data += chunk.data
                if len(data) >= given.max_bytes:
                    break
    info = await proc.refresh()
    del data[given.max_bytes :]
    over = info.state != "running" and offset + len(data) >= info.output_bytes
    text, size = whole_text(bytes(data), is_end=over)
    return _part(info, shown(text), offset + size)


def _part(info: bay.Exec, text: str, end: int) -> ToolAnswer:
    state = info.state if info.exit_code is None else f"{info.state} with {info.exit_code}"
    more = info.output_bytes - end
    rest = f"; {more} more bytes at offset={end}" if more > 0 else f"; next_offset={end}"
    data = {"state": info.state, "exit_code": info.exit_code, "output": text, "next_offset": end}
    return ToolAnswer("\n".join(filter(None, (text.rstrip("\n"), f"[{state}{rest}]"))), data)


class EndCommandArguments(Arguments):
    """Arguments of `end_command`."""

    exec_id: str


@TOOLBOX.add("End a command and all that it started.", destroys=True)
async def end_command(call: ToolCall, given: EndCommandArguments) -> ToolAnswer:
    box = await call.agent.existing(given.sandbox)
    info = await (await box.execs.get(given.exec_id)).kill()
    return ToolAnswer(
        f"[{given.exec_id} is {info.state}]", {"state": info.state, "exit_code": info.exit_code}
    )


class LogsArguments(Arguments):
    """Arguments of `logs`."""

    service: str | None = None
    max_bytes: int = Field(OUTPUT_BYTES, ge=100, le=MOST_BYTES)


@TOOLBOX.add(
    "Show the end of a service's output; without service: the services, the commands that are known, and the "
    "latest events of the sandbox.",
    reads=True,
)
async def logs(call: ToolCall, given: LogsArguments) -> ToolAnswer:
    box = await call.agent.existing(given.sandbox)
    if given.service is not None:
        return await _service_log(box, given.service, given.max_bytes)
    services = [f"service {one.name}: {one.state}" for one in await box.services.list()]
    execs = [_exec_line(proc.info) async for proc in box.execs.list()]
    events = [f"{event.at:%H:%M:%S} {event.type}" async for event in box.events("0", follow=False)]
    lines, _ = first_lines([*services, *execs[-_EVENTS:], *events[-_EVENTS:]])
    return ToolAnswer("\n".join(lines) or "[nothing yet]", {"lines": lines})


async def _service_log(box: bay.AsyncBox, name: str, max_bytes: int) -> ToolAnswer:
    data, end = bytearray(), 0
    async with aclosing(box.services.logs(name)) as chunks:
        async for chunk in chunks:
            data += chunk.data
            end = chunk.offset + len(chunk.data)
            del data[:-max_bytes]
    service = await box.services.get(name)
    text = shown(bytes(data).decode("utf-8", "replace"))
    said = f"[{name} is {service.state}]"
    return ToolAnswer(
        f"{text}\n{said}" if text else said, {"state": service.state, "output": text, "next_offset": end}
    )


def _exec_line(info: bay.Exec) -> str:
    command = " ".join(info.argv)
    code = "" if info.exit_code is None else f" {info.exit_code}"
    return f"{info.id} {info.state}{code}: {command[:100]}"
