"""A program for a sandbox that tries all that rules a kernel, and says how far each attempt got."""

import json
import shlex

from bay.drivers.base import Handle
from bay.testing.driver_bench import run
from bay.testing.walls import PROBE, REFUSED

# It tries once it may, each attempt in a fork of itself, which has all rights and bonds that it has.
_PROGRAM = f"""
import time
{PROBE.partition("print(")[0]}
calls, wait_for, said = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
os.close(os.open(said + ".ready", os.O_CREAT))
while not os.path.exists(wait_for):
    time.sleep(0.02)
codes = {{}}
for name, attempt in calls.items():
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writing, str(eval(attempt)).encode())
        os._exit(0)
    os.close(writing)
    codes[name] = int(os.read(reading, 9))
    os.waitpid(child, 0)
with open(said + ".new", "w") as file:
    json.dump(codes, file)
os.rename(said + ".new", said)
"""


def tries(wait_for: str, said: str) -> list[str]:
    """A command that waits for the file `wait_for` and then tries; `said` is a new file for what came of it.
    It makes `said.ready` first.
    """
    return ["python3", "-c", _PROGRAM, json.dumps(REFUSED), wait_for, said]


async def codes_of(handle: Handle, said: str) -> dict[str, int]:
    """The error number of each attempt, 0 where it succeeded, once the program has made the file `said`."""
    quoted = shlex.quote(said)
    ended = await run(handle, f"until [ -e {quoted} ]; do sleep 0.02; done; cat {quoted}")
    return json.loads(ended.stdout)
