"""Programs that each try to take the whole host, all in one sandbox: others go on, and it ends as a whole
when it is told to.
"""

import shlex

import pytest

from bay.models import Resources
from bay.testing.driver_bench import DriverBench, host_fingerprint, run

pytestmark = [pytest.mark.host, pytest.mark.anyio, pytest.mark.abuse, pytest.mark.timeout(300)]

FORK = "import os\nwhile True:\n try: os.fork()\n except OSError: pass"
MEMORY = "held = []\nwhile True: held.append(bytearray(b'x' * (1 << 20)))"
STUBBORN = "import signal, time\nfor s in range(1, 65):\n try: signal.signal(s, signal.SIG_IGN)\n except (OSError, ValueError): pass\nwhile True: pass"
DESCRIPTORS = (
    "import os\nheld = []\nwhile True:\n try: held.append(os.open('/dev/null', 0))\n except OSError: pass"
)
DIRECTORIES = (
    "import os\nos.chdir('/tmp')\nwhile True:\n try: os.mkdir('d'); os.chdir('d')\n except OSError: pass"
)
FILL = "while True:\n try: open('/dev/shm/fill', 'ab').write(b'x' * (1 << 20))\n except OSError: pass"
RENAMES = "import os\nopen('/tmp/a', 'w')\nwhile True:\n for a, b in (('a', 'b'), ('b', 'a')): os.rename('/tmp/' + a, '/tmp/' + b)"
HOSTILE = (STUBBORN, DESCRIPTORS, DIRECTORIES, FILL, RENAMES, MEMORY, FORK)


@pytest.mark.parametrize("user", [None, "root"])
async def test_others_go_on_and_nothing_is_left(oci: DriverBench, user: str | None) -> None:
    before = host_fingerprint(oci)
    spec = oci.spec(resources=Resources(pids=200, memory=256 << 20, cpus=0.5))
    hostile = await oci.start(spec)
    async with oci.session() as other:
        started = " ".join(f"python3 -c {shlex.quote(program)} > /dev/null 2>&1 &" for program in HOSTILE)
        assert (await run(hostile, f"{started} echo begun", user=user)).stdout == "begun\n"
        for number in range(20):
            assert (await run(other, f"echo {number} > f && cat f")).stdout == f"{number}\n"
        await oci.driver.destroy(hostile)
    after = host_fingerprint(oci)
    assert {**after, "workspaces": None} == {**before, "workspaces": None}
