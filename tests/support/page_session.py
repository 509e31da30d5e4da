"""Someone who follows a page: types its shell, runs its Python, in one directory and one environment."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import page_cli
import page_door
from page_blocks import ROOT

_HERE = Path(__file__).parent
_BIN = Path(sys.executable).parent
LONGEST_S = 100.0
"""Below the time limit of a test, so that the output of the block is shown."""
_END_S = 60.0
_KEEPING = """[ ! -e {place}/variables ] || . {place}/variables
{text}
declare -p | grep -v '^declare -[a-zA-Z]*r' >{place}/variables
env -0 >{place}/environment
pwd >>{place}/environment
"""
"""A block, and after it what the next one of the same shell has."""


class Session:
    """A reader with a HOME below `place`. The blocks begin in its directory `here`."""

    def __init__(self, place: Path, given: Mapping[str, str], python: str) -> None:
        self.place, self.python = place, python
        self.cwd = place / "here"
        stubs, home = place / "programs", place / "home"
        for directory in (self.cwd, stubs, home):
            directory.mkdir()
        kept = {name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ}
        self.environment = kept | {
            "HOME": str(home), "PATH": f"{stubs}:{_BIN}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "PROGRAMS": str(stubs), **given,
        }  # fmt: skip
        (home / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")  # else an error is an answer
        write_program(stubs / "sudo", 'exec "$@"')
        write_program(stubs / "at_terminal", f'exec {sys.executable} {_HERE / "page_person.py"} "$@"')
        self._servers = ExitStack()
        door = self._servers.enter_context(page_door.door(place / "cli"))
        write_program(stubs / "bay", f'exec {sys.executable} -IS {page_cli.__file__} {door} "$@"')

    def close(self) -> None:
        """End the servers that the page has started."""
        self._servers.close()

    def shell(self, text: str) -> str:
        """The output of a block, on both streams, whose commands must all succeed. Variables and the
        directory are there for the next block; processes are not.
        """
        said = self._run(["bash", "-euo", "pipefail", "-c", _KEEPING.format(text=text, place=self.place)])
        *pairs, cwd = (self.place / "environment").read_text().split("\0")
        self.environment = dict(pair.split("=", 1) for pair in pairs)
        self.cwd = Path(cwd.removesuffix("\n"))
        return said

    def run_python(self, text: str) -> str:
        """The output of a block, which must end with 0. Nothing of it warns; frameworks may."""
        program = self.place / "block.py"
        program.write_text(text, encoding="utf-8")
        said = self._run([self.python, str(_HERE / "page_python.py"), str(program)])
        assert self.python != sys.executable or "Warning: " not in said, said
        return said

    def run_javascript(self, text: str) -> str:
        """The same for Node."""
        return self._run(["node", "--input-type=module", "-e", text])

    def serve(self, command: str) -> str:
        """Start a server in a terminal of its own; gives its output until it serves."""
        log = self.place / "serve.log"
        with log.open("wb") as errors:
            server = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                env=self.environment, cwd=self.cwd, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        self._servers.callback(_end, server)
        assert server.stdout is not None
        said = ""
        for line in self._servers.enter_context(server.stdout):
            said += line
            if "The API is at" in line:
                return said
        raise AssertionError(f"{command}: {said}{log.read_text()}")

    def _run(self, command: list[str]) -> str:
        output = self.place / "output"
        with output.open("wb") as stream:
            process = subprocess.Popen(
                command, env=self.environment, cwd=self.cwd, stdin=subprocess.DEVNULL, stdout=stream,
                stderr=stream, start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait(LONGEST_S)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        said = output.read_text(encoding="utf-8", errors="replace")
        assert code == 0, f"exit code {code}\n{command[-1]}\n{said}"
        return said


def _end(server: "subprocess.Popen[str]") -> None:
    server.terminate()
    try:
        server.wait(_END_S)
    finally:
        server.kill()
        server.wait()


def write_program(path: Path, line: str) -> None:
    """A program of one line of shell."""
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def commands_of(console: str) -> tuple[str, list[str]]:
    """The commands of a block with prompts as a script, and the lines of output that it shows."""
    script, shown, pending = "", list[str](), ""
    for line in console.splitlines():
        if pending:
            pending += f"\n{line}"
        elif prompt := re.match(r"[$#] ", line):
            pending = line[prompt.end() :]
        else:
            shown.append(line)
            continue
        if is_whole(pending):
            script, pending = f"{script}{pending}\n", ""
    assert not pending, f"this command does not end: {pending}"
    return script, shown


def is_whole(command: str) -> bool:
    """Whether a shell waits for no further line of it."""
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return not command.endswith("\\")


def shows(output: str, *texts: str) -> str | None:
    """The first of the texts that the output does not have behind those before it, or None. `…` stands for
    anything within a line, and a space for any number of them.
    """
    at = 0
    for text in texts:
        pattern = "[^\n]*".join(map(re.escape, text.split("…")))
        pattern = re.sub(r"(\\ )+", " +", pattern)
        if (found := re.compile(pattern).search(output, at)) is None:
            return text
        at = found.end()
    return None


__all__ = ["ROOT", "Session", "commands_of", "shows", "write_program"]
