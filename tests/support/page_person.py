"""A person at a terminal: runs a command there, and types each text once its pattern was shown. A program for
blocks of the documentation, not a test.

    page_person.py COMMAND [PATTERN TEXT]...

A text that begins with `!` is a command for another terminal.
It ends as the command ends; a command that was interrupted by Ctrl-C has done its work.
"""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

PATIENCE_S = 60.0
INTERRUPT = "\x03"
LEFT = (0, 130, -signal.SIGINT)


def main(command: str, *steps: str) -> int:
    """Run it; gives its exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp("bash", ["bash", "-c", command])  # noqa: S606  a terminal has one process
    shown = watch(terminal, list(zip(steps[::2], steps[1::2], strict=True)))
    if shown is not None:
        os.kill(pid, signal.SIGKILL)
        sys.exit(f"{command}: nothing shows {shown!r}")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return 0 if INTERRUPT in steps and code in LEFT else code


def watch(terminal: int, steps: list[tuple[str, str]]) -> str | None:
    """Show all that the command says; gives the pattern that did not come in time, or None at its end."""
    said, ends = "", time.monotonic() + PATIENCE_S
    while True:
        if not select.select([terminal], [], [], max(0.0, ends - time.monotonic()))[0]:
            return steps[0][0] if steps else "its end"
        try:
            more = os.read(terminal, 65536)
        except OSError:  # the other side is closed
            more = b""
        if not more:
            return None
        text = more.decode(errors="replace")
        sys.stdout.write(text)
        sys.stdout.flush()
        said += text
        if steps and re.search(steps[0][0], said):
            answer(terminal, steps.pop(0)[1])
            said = ""


def answer(terminal: int, text: str) -> None:
    """Type the text, or run it in another terminal where it begins with `!`."""
    if text.startswith("!"):
        subprocess.run(["bash", "-c", text[1:]], check=True, timeout=PATIENCE_S)
    else:
        os.write(terminal, text.encode())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
