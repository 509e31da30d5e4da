"""Files in and out of a sandbox, lists, searches and watches, beside what a shell or Docker does with the
same.
"""

import http.client
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from examples.own_server import OwnServer

from bay.client import Box
from bench.attached import peaks
from bench.base import Bench, ms, running_box
from bench.figures import Absent, Figure, Ratio, Result
from bench.raw import Raw

MIB = 1 << 20
TRANSFER_MIB, ENTRIES, TREE, EVENTS = 1024, 100_000, 50_000, 100

PLANT = """
import os, sys
for n in range(int(sys.argv[1])):
    folder = f"tree/{n // 200}"
    if n % 200 == 0:
        os.makedirs(folder)
    with open(f"{folder}/file{n}.py", "w") as file:
        file.write(f"# number {n}\\n" + "def f(x):\\n    return x + 1\\n" * 40 + ("needle\\n" if n % 500 == 0 else ""))
"""


def transfer(bench: Bench) -> list[Result]:
    """1 GiB in and out over HTTP, what Bay's memory does meanwhile, and `docker cp` of the same."""
    size = bench.count(TRANSFER_MIB) * MIB
    with running_box(bench.client) as box, peaks({"Bay": bench.server.pid}) as grown:
        path = f"/v1/sandboxes/{box.id}/files/content?" + urlencode({"path": "large"})
        up = [size / MIB / _seconds(lambda: upload(bench.server, path, size)) for _ in range(3)]
        down = [size / MIB / _seconds(lambda: download(bench.server, path, size)) for _ in range(3)]
    note = f"{size // MIB} MiB; Bay grew by {grown['Bay']:.1f} MiB"
    mine_up, mine_down = (
        Figure("upload", "MiB/s", tuple(up), note),
        Figure("download", "MiB/s", tuple(down), note),
    )
    theirs = _docker_cp(bench, size)
    if theirs is None:
        return [mine_up, mine_down, Absent("docker cp", "docker not available")]
    cp_in, cp_out = theirs
    return [mine_up, cp_in, Ratio(mine_up, cp_in), mine_down, cp_out, Ratio(mine_down, cp_out)]


def listing_files(bench: Bench) -> list[Result]:
    """A directory of 100,000 files, listed."""
    count = bench.count(ENTRIES)
    with running_box(bench.client) as box, Raw(bench.server) as raw:
        box.run(f"mkdir many && cd many && seq {count} | xargs touch", timeout_s=120, check=True)
        path = f"/v1/sandboxes/{box.id}/files/list?" + urlencode({"path": "many", "limit": 200_000})
        got = len(raw.call("GET", path)["entries"])
        taken = [ms(lambda: raw.call("GET", path)) for _ in range(3)]
    return [Figure(f"list of {got} entries", "ms", tuple(taken), "with the client's parsing")]


def search(bench: Bench) -> list[Result]:
    """A word in a tree of 50,000 files, beside `grep -r` of the same in the sandbox."""
    count = bench.count(TREE)
    with running_box(bench.client) as box, Raw(bench.server) as raw:
        box.run(["python3", "-c", PLANT, str(count)], timeout_s=300, check=True)
        path = f"/v1/sandboxes/{box.id}/files/search?" + urlencode({"path": "tree", "query": "needle"})
        assert len(raw.call("GET", path)["matches"]) == -(-count // 500)
        mine = [ms(lambda: raw.call("GET", path)) for _ in range(3)]
        grep = [ms(lambda: box.run("grep -rn needle tree > /dev/null", check=True)) for _ in range(3)]
    figure = Figure(f"search in {count} files", "ms", tuple(mine))
    beside = Figure("grep -rn of the same", "ms", tuple(grep), "as an exec")
    return [figure, beside, Ratio(figure, beside)]


def watch(bench: Bench) -> list[Result]:
    """From a write in the sandbox to its event at the client."""
    taken: list[float] = []
    with running_box(bench.client) as box, box.files.watch(".") as events:
        for number in range(bench.count(EVENTS)):
            taken.append(ms(lambda number=number: _touch_and_hear(bench, box, events, f"n{number}")))
    return [Figure("a write through the API → its event", "ms", tuple(taken), "the write itself included")]


def _touch_and_hear(bench: Bench, box: Box, events: Iterable[object], name: str) -> None:
    box.files.write(name, b"x")
    for event in events:
        if name in (Path(str(getattr(event, word, None))).name for word in ("path", "to")):
            return


def upload(server: OwnServer, path: str, size: int) -> None:
    """Send that many bytes to `path`, the content of a file."""
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        headers = {"Authorization": f"Bearer {server.api_key}", "Content-Length": str(size)}
        connection = _connection(server)
        connection.request("PUT", path, body=file, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        connection.close()


def download(server: OwnServer, path: str, size: int) -> None:
    """Receive as many bytes from there."""
    connection = _connection(server)
    connection.request("GET", path, headers={"Authorization": f"Bearer {server.api_key}"})
    answer = connection.getresponse()
    got = 0
    while data := answer.read(MIB):
        got += len(data)
    connection.close()
    assert got == size, f"{got} of {size} bytes came"


def _connection(server: OwnServer) -> http.client.HTTPConnection:
    parts = urlsplit(server.url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=300, blocksize=MIB)


def _seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _docker_cp(bench: Bench, size: int) -> tuple[Figure, Figure] | None:
    if not bench.docker:
        return None
    into: list[float] = []
    out: list[float] = []
    with bench.docker.container() as name, tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "large")
        with source.open("wb") as file:
            file.truncate(size)
        for _ in range(3):
            for taken, words in (
                (into, [source, f"{name}:/large"]),
                (out, [f"{name}:/large", Path(folder, "back")]),
            ):
                taken.append(
                    size
                    / MIB
                    / _seconds(lambda words=words: subprocess.run(["docker", "cp", "-q", *words], check=True))
                )
    return Figure("docker cp in", "MiB/s", tuple(into)), Figure("docker cp out", "MiB/s", tuple(out))
