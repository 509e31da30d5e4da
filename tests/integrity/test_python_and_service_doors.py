"""Every byte that a cell or a service prints, or a word that says that some are missing."""

from collections.abc import Iterable

import httpx
import pytest
from counting import KIB, LARGEST, MIB, PERFECT, SIZES, judged, printing
from examples.own_server import OwnServer

import bay

pytestmark = [pytest.mark.host, pytest.mark.long, pytest.mark.timeout(900)]
KEPT = MIB // 2
"""Less than Ship keeps of a service's log, which is not waited for by anybody."""


def cell(size: int) -> str:
    return f"import subprocess, sys\nfor line in subprocess.Popen({printing(size)!r}, shell=True, stdout=-1, text=True).stdout: _ = sys.stdout.write(line)"


def texts(events: Iterable[bay.CellEvent], seen: list[bay.CellEvent]) -> Iterable[bytes]:
    for event in events:
        seen.append(event)
        if event.type == "stdout":
            yield (event.text or "").encode()


@pytest.mark.parametrize("size", [size for size in SIZES if size <= 20 * MIB])
def test_a_cell_that_is_streamed(box: bay.Box, size: int) -> None:
    seen: list[bay.CellEvent] = []
    verdict = judged(size, texts(box.python.stream(cell(size)), seen))
    assert verdict == PERFECT or seen[-1].truncated


@pytest.mark.parametrize("size", [size for size in SIZES if size <= 20 * MIB])
def test_a_cell_that_is_run_to_its_end(box: bay.Box, size: int) -> None:
    result = box.python.run(cell(size))
    assert judged(size, [result.stdout.encode()]) == PERFECT or (result.truncated and not result.ok)


@pytest.mark.parametrize("size", [size for size in SIZES if size <= 20 * MIB])
def test_the_call_python_exec_says_when_it_cut(server: OwnServer, box: bay.Box, size: int) -> None:
    answer = httpx.post(
        f"{server.url}/v1/sandboxes/{box.id}/python/exec",
        headers={"Authorization": f"Bearer {server.api_key}"},
        json={"code": cell(size), "timeout": 300},
        timeout=320,
    ).json()
    assert judged(size, [answer["output"].encode()]) == PERFECT or answer["truncated"]


@pytest.mark.parametrize("size", [KIB, KEPT])
def test_the_log_of_a_service(box: bay.Box, size: int) -> None:
    name = f"prints-{size}"
    spec = bay.ServiceSpec(name=name, argv=("sh", "-c", printing(size)), restart="never")
    box.services.put(spec)
    assert judged(size, (chunk.data for chunk in box.services.logs(name, follow=True))) == PERFECT
    box.services.delete(name)


def test_the_log_of_a_service_that_printed_more_than_is_kept_shows_the_gap(box: bay.Box) -> None:
    size = min(LARGEST, 20 * MIB)
    box.services.put(bay.ServiceSpec(name="floods", argv=("sh", "-c", printing(size)), restart="never"))
    list(box.services.logs("floods", follow=True))
    (first, *_) = chunks = list(box.services.logs("floods"))
    assert first.offset + sum(len(chunk.data) for chunk in chunks) == size
    box.services.delete("floods")
