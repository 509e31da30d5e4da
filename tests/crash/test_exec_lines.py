"""A command prints numbered lines while its client, its connection and Bay itself are killed: no line is
lost, none comes twice.

Everything is real: runc, Ship, Bay in a process of its own that gets SIGKILL, a client in another. The ring
holds what is printed meanwhile, so what the client has kept at the end is what the command has printed, byte
for byte.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from crash_case import KEY, Place
from cutting_proxy import CuttingProxy, cutting_proxy

import bay
from bay.server.backends import make_driver
from bay.server.settings import Settings

pytestmark = [pytest.mark.host, pytest.mark.anyio, pytest.mark.long]

KILLS = 200
OF_BAY, OF_CLIENT = 0.1, 0.3
"""Shares of the kills; the rest cuts the connection."""
PATIENCE_S = 60.0
PRINTER = """
import os, sys, time
number = 0
while not os.path.exists("enough"):
    for _ in range(20):
        number += 1
        sys.stdout.write(f"line {number}\\n")
    sys.stdout.flush()
    time.sleep(0.005)
"""


def until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.002)


@dataclass
class Hosted:
    """The processes that are killed."""

    place: Place
    proxy: CuttingProxy
    program: "subprocess.Popen[str]"
    bay_pid: int = 0
    client_pid: int = 0

    def order(self, **order: Any) -> dict[str, Any]:
        assert self.program.stdin
        assert self.program.stdout
        self.program.stdin.write(json.dumps({"log": str(self.place.root / "log"), **order}) + "\n")
        self.program.stdin.flush()
        return json.loads(self.program.stdout.readline())

    @property
    def settings(self) -> dict[str, Any]:
        loaded = self.place.settings(0).model_dump(mode="json", exclude={"api_key"}, exclude_unset=True)
        return {**loaded, "api_key": KEY, "host": "127.0.0.1", "port": 0, "log_level": "error"}

    def serve(self) -> None:
        answer = self.order(do="serve", settings=self.settings)
        assert answer["said"], self.said()
        self.bay_pid = answer["pid"]
        self.proxy.target = int(answer["said"].rpartition(":")[2])

    def kill_bay(self) -> None:
        self.proxy.target = None
        self.order(do="kill", pid=self.bay_pid)
        self.bay_pid = 0

    def kill_client(self) -> None:
        self.order(do="kill", pid=self.client_pid)
        self.client_pid = 0

    def said(self) -> str:
        """The end of what the processes logged."""
        log = self.place.root / "log"
        return log.read_text()[-4000:] if log.exists() else ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.proxy.port}"


@pytest.fixture
def hosted(place: Place) -> Generator[Hosted]:
    with cutting_proxy() as proxy:
        program = subprocess.Popen(
            [sys.executable, str(Path(__file__).parents[1] / "support" / "line_host.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "BAY_CRASH_CASE": str(place.root)},
        )  # fmt: skip
        hosted = Hosted(place, proxy, program)
        try:
            yield hosted
        finally:
            for pid in filter(None, (hosted.client_pid, hosted.bay_pid)):
                hosted.order(do="kill", pid=pid)
            assert program.stdin
            assert program.stdout
            program.stdin.close()
            program.wait(PATIENCE_S)
            program.stdout.close()


async def remove_all(settings: Settings) -> None:
    driver = make_driver(settings)
    await driver.open()
    for owned in [owned async for owned in driver.list_owned()]:
        await driver.destroy(owned.handle)
    await driver.aclose()


def kill_something(hosted: Hosted, chance: random.Random, file: Path, start: Callable[[], None]) -> None:
    """One kill, at a moment that depends on how far the reader is, and what follows it."""
    what = chance.random()
    if what >= OF_BAY + OF_CLIENT:
        before = hosted.proxy.cuts
        hosted.proxy.cut_after(chance.randrange(6000))
        until(lambda: hosted.proxy.cuts > before, lambda: f"no byte came to the client: {hosted.said()}")
        return
    size = file.stat().st_size + chance.randrange(6000)
    until(lambda: file.stat().st_size >= size, lambda: f"the reader does not go on: {hosted.said()}")
    if what >= OF_BAY:
        hosted.kill_client()
        start()
    else:
        hosted.kill_bay()
        hosted.serve()


@pytest.mark.timeout(400)
async def test_200_kills_of_client_connection_and_bay_lose_and_double_no_line(hosted: Hosted) -> None:
    chance = random.Random(4)  # noqa: S311 - the same kills every time
    file = hosted.place.root / "lines"
    file.touch()
    hosted.serve()
    try:
        with bay.Client(hosted.url, KEY) as client:
            box = client.sandboxes.create(wait=60)
            proc = box.spawn(["python3", "-c", PRINTER])

            def read() -> None:
                hosted.client_pid = hosted.order(
                    do="read", by=chance.choice(("attach", "output")), url=hosted.url, key=KEY,
                    sandbox=box.id, exec=proc.id, file=str(file),
                )["pid"]  # fmt: skip

            read()
            for _ in range(KILLS):
                kill_something(hosted, chance, file, read)
            box.run("touch enough", check=True)
            ended = Path(f"{file}.ended")
            until(ended.exists, lambda: f"the reader never saw the end: {hosted.said()}")
            printed = file.read_text()
            count = printed.count("\n")
            assert printed == "".join(f"line {number}\n" for number in range(1, count + 1))
            assert proc.wait(10).exit_code == 0
            assert proc.info.output_bytes == len(printed)
            box.delete()
    finally:
        if hosted.bay_pid:
            hosted.kill_bay()
        await remove_all(Settings.model_validate(hosted.settings))
