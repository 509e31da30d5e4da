"""Commands as a user of E2B runs them, with the sync and the async client of Python."""

import asyncio
import sys

from e2b import AsyncSandbox, CommandExitException, NotFoundException, Sandbox, TimeoutException
from e2b.sandbox.commands.command_handle import PtySize


def check(fact: bool, what: object) -> None:
    if not fact:
        sys.exit(f"wrong: {what!r}")


def with_sync(box: Sandbox) -> None:
    done = box.commands.run("echo $GREETING; pwd; whoami", envs={"GREETING": "hello"})
    check(done.stdout.split() == ["hello", "/home/user", "user"], done)
    check(box.commands.run("whoami", user="root").stdout == "root\n", "root")
    check(box.commands.run("pwd", cwd="/tmp").stdout == "/tmp\n", "cwd")
    try:
        box.commands.run("echo out; echo err >&2; exit 3")
        sys.exit("no error")
    except CommandExitException as error:
        check((error.exit_code, error.stdout, error.stderr) == (3, "out\n", "err\n"), error)
    try:
        box.commands.run("sleep 60", timeout=1)
        sys.exit("no timeout")
    except TimeoutException:
        pass
    check(len(box.commands.run("seq 1 300000").stdout) > 1_900_000, "big output")
    for n in range(30):
        check(box.commands.run(f"echo {n}").stdout == f"{n}\n", n)


def with_background(box: Sandbox) -> None:
    cat = box.commands.run("cat", background=True, stdin=True, timeout=0)
    box.commands.send_stdin(cat.pid, "line\n")
    check(cat.pid in [process.pid for process in box.commands.list()], "list")
    seen = next(out for out, _, _ in cat if out)
    check(seen == "line\n", seen)
    cat.disconnect()
    again = box.commands.connect(cat.pid)
    box.commands.close_stdin(cat.pid)
    check(again.wait().exit_code == 0, again)
    sleeper = box.commands.run("sleep 60", background=True)
    check(sleeper.kill(), "kill")
    check(not box.commands.kill(sleeper.pid), "killed twice")
    try:
        box.commands.connect(999_999)
        sys.exit("connected to nothing")
    except NotFoundException:
        pass


async def with_async(sandbox_id: str) -> None:
    box = await AsyncSandbox.connect(sandbox_id)
    heard: list[str] = []
    await box.commands.run("echo one; echo two", on_stdout=heard.append)
    check("".join(heard) == "one\ntwo\n", heard)
    printed: list[bytes] = []
    terminal = await box.pty.create(PtySize(rows=30, cols=90), on_data=printed.append, timeout=60)
    await box.pty.send_stdin(terminal.pid, b"stty size\n")
    await box.pty.resize(terminal.pid, PtySize(rows=20, cols=40))
    await box.pty.send_stdin(terminal.pid, b"stty size; exit 4\n")
    try:
        await terminal.wait()
        sys.exit("no error")
    except CommandExitException as error:
        check(error.exit_code == 4, error)
    check(b"20 40" in b"".join(printed), printed)
    outputs = await asyncio.gather(*(box.commands.run(f"echo {n}") for n in range(20)))
    check([each.stdout for each in outputs] == [f"{n}\n" for n in range(20)], outputs)


def main() -> None:
    box = Sandbox.create()
    try:
        with_sync(box)
        with_background(box)
        asyncio.run(with_async(box.sandbox_id))
    finally:
        box.kill()
    print("done")


main()
