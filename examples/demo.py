"""`make demo`: Bay's main job on real input, each step timed and checked, nothing left behind.

It starts a server of its own and talks to it only through the public SDK over HTTP. What a step
gives is compared with what this program works out by itself; what the host holds is read from the kernel.
"""

import csv
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.markup import escape

from bay.client import Box, Client
from bay.errors import BayError, NotFound
from examples import host_view
from examples.host_view import Traces
from examples.own_server import OwnServer, ServerFailed, own_server

HERE = Path(__file__).parent
CSV = HERE / "measurements.csv"
PIPELINE = "tail -n +2 measurements.csv | cut -d, -f2 | sort | uniq -c | sort -k1,1nr -k2 | tee rows.txt"
# One line a station, and an answer to it before the next, so that output which is kept back shows: the
# command would wait until its time is over.
ANSWERED = (
    "for s in $(tail -n +2 measurements.csv | cut -d, -f2 | sort -u); do "
    "echo $s $(grep -c ,$s, measurements.csv); read -r answer; done; echo done >&2"
)
COMMAND_LINES = r"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' ' '"


class Wrong(Exception):
    """A step did not give what it must; the message says what it gave."""


def expect(what: str, found: object, wanted: object) -> None:
    """Raise Wrong unless `found` equals `wanted`."""
    if found != wanted:
        raise Wrong(f"{what}: expected {wanted!r}, found {found!r}")


@dataclass
class Note:
    """What a step has to say for itself, shown behind its title."""

    text: str = ""


class Steps:
    """Prints one line a step: a mark, milliseconds, what was done."""

    def __init__(self) -> None:
        self._out = Console(highlight=False, soft_wrap=True)
        self._began = time.perf_counter()

    @contextmanager
    def step(self, title: str) -> Generator[Note]:
        """Time what happens inside; an exception marks the step as failed and goes on."""
        began, note, done = time.perf_counter(), Note(), False
        try:
            yield note
            done = True
        finally:
            mark = "[green]✓[/]" if done else "[red]✗[/]"
            ms = (time.perf_counter() - began) * 1000
            self._out.print(f"{mark} [cyan]{ms:>7.1f} ms[/]  {title}  [dim]{escape(note.text)}[/]")

    def end(self) -> None:
        """The last line of a good run."""
        seconds = time.perf_counter() - self._began
        self._out.print(f"[green bold]All steps are right[/] [dim]({seconds:.1f} s)[/]")

    def fail(self, error: Exception) -> None:
        """The last line of a bad one."""
        self._out.print(f"[red bold]{escape(type(error).__name__)}[/]: {escape(str(error))}")


def rows() -> list[dict[str, str]]:
    """The readings, as this program sees them."""
    with CSV.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def mean_levels() -> dict[str, float]:
    """The mean level of each station, worked out here and not in the sandbox."""
    levels: dict[str, list[float]] = defaultdict(list)
    for row in rows():
        if row["level_cm"] not in ("", "-999"):
            levels[row["station"]].append(float(row["level_cm"]))
    return {station: sum(values) / len(values) for station, values in levels.items()}


def rows_by_station() -> Counter[str]:
    """How many readings each station has."""
    return Counter(row["station"] for row in rows())


def first_command(box: Box) -> str:
    """Who and where a command is; the user has no power, and the host's files are not there."""
    result = box.run(f"id -u; pwd; python3 -c 'print(6*7)'; test -e {CSV} && echo host; true")
    expect("uid, directory, 6*7", result.stdout.split(), ["1000", "/workspace", "42"])
    return "uid 1000 in /workspace, 6*7 = 42"


def upload(box: Box) -> str:
    """Send the readings and the script."""
    for path in (CSV, HERE / "summarise.py"):
        box.files.upload(path, path.name)
        expect(f"size of {path.name}", sizes(box)[path.name], path.stat().st_size)
    return f"{len(rows())} rows, {CSV.stat().st_size / 1000:.0f} kB"


def sizes(box: Box) -> dict[str, int | None]:
    """The files in the workspace."""
    return {entry.name: entry.size for entry in box.files.list(".")}


def summarise(box: Box) -> str:
    """Run the Python script over the readings."""
    result = box.run("python3 summarise.py measurements.csv", timeout_s=30)
    expect("exit code", (result.exit_code, result.stderr), (0, ""))
    expect("lines", len(result.stdout.splitlines()), len(rows_by_station()))
    return result.stdout.splitlines()[0]


def pipeline(box: Box) -> str:
    """Count the rows of each station with a shell pipeline."""
    result = box.run(PIPELINE, timeout_s=30)
    counted = {name: int(number) for number, name in (line.split() for line in result.stdout.splitlines())}
    expect("rows by station", counted, dict(rows_by_station()))
    return f"{len(counted)} stations counted, {sum(counted.values())} rows"


def stream(box: Box) -> str:
    """Read the output of a longer command while it runs: each line is answered before the next is printed."""
    process = box.spawn(ANSWERED, stdin_open=True, timeout_s=30)
    text: dict[str, bytes] = {"stdout": b"", "stderr": b""}
    answered = 0
    for chunk in process.output():
        text[chunk.stream] += chunk.data
        if text["stdout"].count(b"\n") > answered:
            process.write("read\n")
            answered += 1
    lines = [f"{name} {count}" for name, count in sorted(rows_by_station().items())]
    expect("stdout", text["stdout"].decode().splitlines(), lines)
    expect("stderr", text["stderr"], b"done\n")
    expect("exit code", process.wait(timeout_s=5).exit_code, 0)
    return f"{answered} lines, each answered before the next was printed"


def download(box: Box) -> str:
    """Bring the result home and compare it with our own."""
    with tempfile.TemporaryDirectory(prefix="bay-demo-") as folder:
        local = Path(folder, "summary.json")
        box.files.download("summary.json", local)
        found = {
            row["station"]: row["level_mean_cm"] for row in json.loads(local.read_text(encoding="utf-8"))
        }
    wanted = {station: round(mean, 2) for station, mean in mean_levels().items()}
    expect("stations", sorted(found), sorted(wanted))
    for station, mean in wanted.items():
        # One hundredth of a centimetre: the two sums may round differently.
        if abs(found[station] - mean) > 0.011:
            raise Wrong(f"mean level of {station}: expected {mean}, found {found[station]}")
    return f"summary.json: {len(found)} means, the same as computed here"


def leave_running(box: Box, server: OwnServer, argv: list[str]) -> Traces:
    """Start a process that ends only with the sandbox; the host's view of it."""
    box.spawn(argv)
    deadline = time.monotonic() + 10
    while not (pids := host_view.pids_of(argv)):
        if time.monotonic() > deadline:
            raise Wrong(f"the host has no process {argv}")
        time.sleep(0.01)
    return host_view.traces_of(pids[0], server.pid, {box.id, box.info.cargo_id})


def check_isolated(traces: Traces) -> str:
    """The sandbox has namespaces of its own of every kind that separates it from the host."""
    kinds = {name.split(":")[0] for name in traces.namespaces}
    missing = {"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} - kinds
    if missing:
        raise Wrong(f"the sandbox shares these namespaces with the host: {', '.join(sorted(missing))}")
    if not traces.cgroups:
        raise Wrong("the sandbox has no cgroup of its own")
    return f"{len(kinds)} namespaces and {len(traces.cgroups)} cgroups of its own"


def stop(box: Box, argv: list[str]) -> str:
    """Give the compute back; the files stay."""
    box.stop()
    box.refresh()
    expect("compute", box.info.compute, "cold")
    expect("processes on the host", host_view.pids_of(argv), [])
    return "compute is cold, its processes are gone"


def use_again(box: Box, argv: list[str], before: dict[str, int | None]) -> str:
    """Simply use it: it starts by itself, under the same id."""
    known = box.id
    result = box.run("cat rows.txt | wc -l", timeout_s=30)
    expect("lines of rows.txt", result.stdout.strip(), str(len(rows_by_station())))
    expect("id", box.id, known)
    expect("files", sizes(box), before)
    running = box.run(COMMAND_LINES).stdout
    if " ".join(argv) in running:
        raise Wrong(f"a process of before the stop still runs: {running}")
    return f"same id, {len(before)} files there, old processes not"


def put_back(box: Box, argv: list[str]) -> str:
    """Keep the files as they are, break them, and have them back: what ran ends, what is kept does not
    change.
    """
    before = sizes(box)
    made = box.checkpoint("before", "the demonstration")
    box.run("rm -r measurements.csv && echo broken > rows.txt", check=True)
    box.restore(made.id)
    expect("files", sizes(box), before)
    expect("processes on the host", host_view.pids_of(argv), [])
    return f"{len(before)} files as they were, what ran has ended"


def fork(box: Box) -> str:
    """Two sandboxes that begin with the same files, each with a copy of its own."""
    forks = box.fork(2, "before")
    for number, one in enumerate(forks):
        one.run(f"echo {number} > rows.txt", timeout_s=30, check=True)
    expect("rows.txt of each", [one.files.read_text("rows.txt") for one in forks], ["0\n", "1\n"])
    lines = box.files.read_text("rows.txt").splitlines()
    expect("lines of rows.txt in the first", len(lines), len(rows_by_station()))
    for one in forks:
        one.delete()
    return "each wrote to its own, the first is as it was"


def delete(client: Client, box: Box) -> str:
    """Remove it; afterwards it does not exist."""
    box.delete()
    try:
        client.sandboxes.get(box.id)
    except NotFound:
        return f"{box.id} no longer exists"
    raise Wrong(f"{box.id} is still there")


def check_nothing_left(server: OwnServer, argv: list[str], sessions: list[Traces]) -> str:
    """The host holds nothing of any session of the sandbox."""
    left = [f"process {pid}" for pid in host_view.pids_of(argv)]
    for traces in sessions:
        left += host_view.leftovers(traces, server.folder, server.pid)
    if left:
        raise Wrong("still there: " + ", ".join(left))
    return "no container, process, namespace, cgroup, mount or directory"


def work(steps: Steps, server: OwnServer, client: Client) -> None:
    """All steps between the start of the server and its end."""
    # A command line that nothing else on this host has.
    argv = ["/usr/bin/sleep", str(random.randrange(10_000_000, 99_999_999))]  # noqa: S311  a label, not a secret
    with steps.step("create a sandbox") as note:
        box = client.sandboxes.create(name="demo", wait=30)
        expect("status and error", (box.info.status, box.info.error), ("ready", None))
        note.text = box.id
    with steps.step("run a command") as note:
        note.text = first_command(box)
    with steps.step("upload measurements.csv and summarise.py") as note:
        note.text = upload(box)
    with steps.step("run the Python script over it") as note:
        note.text = summarise(box)
    with steps.step("run a shell pipeline over it") as note:
        note.text = pipeline(box)
    with steps.step("stream a longer command") as note:
        note.text = stream(box)
    with steps.step("download the result") as note:
        note.text = download(box)
    with steps.step("leave a process running, look at it from the host") as note:
        sessions = [leave_running(box, server, argv)]
        note.text = check_isolated(sessions[0])
    files = sizes(box)
    with steps.step("stop the sandbox") as note:
        note.text = stop(box, argv)
    with steps.step("start it again by using it") as note:
        note.text = use_again(box, argv, files)
    sessions.append(leave_running(box, server, argv))
    with steps.step("checkpoint it, break its files, restore") as note:
        note.text = put_back(box, argv)
    with steps.step("fork it twice") as note:
        note.text = fork(box)
    with steps.step("delete it") as note:
        note.text = delete(client, box)
    with steps.step("look for anything left on the host") as note:
        note.text = check_nothing_left(server, argv, sessions)


def run(steps: Steps) -> None:
    """The whole demonstration."""
    with ExitStack() as stack:
        with steps.step("start Bay") as note:
            server = stack.enter_context(own_server("bay-demo-"))
            note.text = server.url
        client = stack.enter_context(server.client())
        work(steps, server, client)
        with steps.step("end Bay") as note:
            stack.close()
            expect("files of the server", server.folder.exists(), False)
            note.text = "its files are removed"


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Exit code 0 when every step is right, 1 when one is wrong, 130 when interrupted."""
    signal.signal(signal.SIGTERM, _interrupt)
    steps = Steps()
    if os.geteuid() != 0:
        steps.fail(PermissionError("Bay needs root to make containers; type: sudo make demo"))
        return 1
    try:
        run(steps)
    except KeyboardInterrupt:
        return 130
    except (Wrong, ServerFailed, BayError, OSError) as error:
        steps.fail(error)
        return 1
    steps.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
