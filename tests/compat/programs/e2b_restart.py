"""A command by the Python SDK of E2B whose Bay is killed: the client hears it, and finds it again later."""

import sys

from e2b import CommandExitException, Sandbox, SandboxException

sandbox = Sandbox.create(timeout=300)
command = sandbox.commands.run(
    "echo running; read line; echo $line; exit 3", background=True, stdin=True, timeout=0
)
try:
    command.wait(on_stdout=lambda out: print(out, end="", flush=True))
    sys.exit("the command has ended")
except CommandExitException as error:
    sys.exit(f"the command is said to have ended: {error!r}")
except SandboxException as error:
    print(f"cut: {error}".splitlines()[0], flush=True)
assert sys.stdin.readline() == "back\n"
again = sandbox.commands.connect(command.pid, timeout=0)
sandbox.commands.send_stdin(command.pid, "told\n")
try:
    again.wait()
    sys.exit("the command has not failed")
except CommandExitException as error:
    assert error.exit_code == 3, error
    assert error.stdout.endswith("told\n"), error
print("done", flush=True)
