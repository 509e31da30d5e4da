"""`box.python` and `box.kernels` against a real Bay with the `fake` driver, also over
connections that break.
"""

import base64
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

import bay

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture(scope="module")
def box(client: bay.Client) -> Iterator[bay.Box]:
    with client.sandbox() as made:
        yield made


def test_code_remembers_and_its_result_has_all_of_it(box: bay.Box) -> None:
    box.python.run("x = 6").check()
    found = box.python.run("import sys\nprint('out')\nprint('err', file=sys.stderr)\nx * 7")
    assert (found.ok, found.status, found.error, found.message) == (True, "ok", None, None)
    assert (found.stdout, found.stderr, found.text) == ("out\n", "err\n", "out\nerr\n42")
    assert found.results[0]["text/plain"] == "42"
    assert (found.execution_count or 0) > 1
    assert found.duration_s > 0
    assert str(found) == "out\nerr\n42"


def test_a_result_shows_itself_in_a_notebook(box: bay.Box, tmp_path: Path) -> None:
    code = f"import base64; from IPython.display import HTML, Image, display\ndisplay(HTML('<b>x</b>'))\nImage(base64.b64decode('{PNG}'), format='png')"
    found = box.python.run(code).check()
    assert found.displays[0]["text/html"] == "<b>x</b>"
    [image] = found.images
    assert (bytes(image), image.media_type) == (base64.b64decode(PNG), "image/png")
    assert image.save(tmp_path / "plot.png").read_bytes() == image
    bundle = found._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "image/png"}
    assert set(found._repr_mimebundle_(include=["text/plain"])) == {"text/plain"}
    assert set(found._repr_mimebundle_(exclude=["text/plain"])) == {"image/png"}


@pytest.mark.parametrize("given", ["abc", "h\u00e9"])
def test_an_image_that_is_none_is_left_to_the_displays(box: bay.Box, given: str) -> None:
    code = f"from IPython.display import display\ndisplay({{'image/png': {given!a}}}, raw=True)"
    found = box.python.run(code).check()
    assert (found.images, found.displays[0]["image/png"]) == ((), given)


def test_a_repl_is_not_flooded_by_what_code_shows(box: bay.Box) -> None:
    code = f"from IPython.display import Image\nimport base64\nprint('x' * 100_000)\nImage(base64.b64decode('{PNG}'), format='png')"
    found = box.python.run(code).check()
    assert len(found.text) > 100_000
    assert len(repr(found)) < 3000
    assert repr(found.images[0]).startswith("<Image image/png, ")
    assert all(len(repr(event)) < 3000 for event in box.python.stream(code))


def test_an_exception_is_a_result_until_it_is_checked(box: bay.Box) -> None:
    found = box.python.run("print('before')\n1 / 0")
    assert (found.ok, found.status, found.stdout) == (False, "error", "before\n")
    assert found.error is not None
    assert (found.error.ename, found.error.evalue) == ("ZeroDivisionError", "division by zero")
    assert found.traceback.endswith("ZeroDivisionError: division by zero")
    with pytest.raises(bay.CellFailed, match="ZeroDivisionError: division by zero") as caught:
        found.check()
    assert caught.value.result is found


def test_a_result_that_lacks_output_is_not_ok(box: bay.Box) -> None:
    found = box.python.run("for _ in range(5000): print('x' * 4000)")
    assert (found.status, found.truncated, found.ok) == ("ok", True, False)
    assert str(found).endswith("[output beyond 16 MiB is missing: have the code write it to a file]")
    with pytest.raises(bay.CellFailed, match="output beyond 16 MiB is missing"):
        found.check()


def test_a_timeout_keeps_the_variables_and_the_next_output_is_its_own(box: bay.Box) -> None:
    box.python.run("kept = 1")
    slow = box.python.run("print('so far', flush=True)\nwhile True: pass", timeout_s=0.5)
    assert (slow.status, slow.stdout, slow.restarted) == ("timeout", "so far\n", False)
    assert "variables were kept" in (slow.message or "")
    assert box.python.run("kept").text == "1"


def test_events_come_as_they_happen(box: bay.Box) -> None:
    box.files.write("steps", "")
    code = "import time\nfor n in range(3):\n    print(n, flush=True)\n    while open('steps').read().count('x') <= n: time.sleep(0.005)"
    seen: list[str] = []
    last = None
    for event in box.python.stream(code):
        if event.type == "stdout":
            seen.append(event.text or "")
            box.files.write("steps", "x" * len(seen))  # it goes on only once this was seen
        last = event
    assert (seen, last and last.status) == (["0\n", "1\n", "2\n"], "ok")


def test_an_attached_run_ends_with_its_reader(box: bay.Box) -> None:
    code = "kept = 1\nprint('here')\nwhile True: pass"
    with closing(box.python.stream(code, attached=True)) as events:
        assert any(event.type == "stdout" for event in events)
    assert box.python.run("kept").text == "1"


def test_kernels_are_made_looked_at_and_ended(box: bay.Box) -> None:
    made = box.kernels.create(env={"WHO": "me"})
    assert made.run("import os; y = os.environ['WHO']; y", env={"WHO": "you"}).text == "'you'"
    assert made.run("import os; y = os.environ['WHO']; y").text == "'me'"
    assert box.python.run("'y' in globals()").text == "False"
    assert {kernel.id for kernel in box.kernels.list()} == {"default", made.id}
    assert box.kernels.get(made.id).info.state == "idle"
    assert made.refresh().execution_count == 2
    assert [event.type for event in made.stream("y")] == ["start", "result", "end"]
    made.restart()
    assert made.run("'y' in globals()").text == "False"
    assert "python3" in [spec.name for spec in box.kernels.specs()]
    made.delete()
    with pytest.raises(bay.NotFound):
        made.refresh()
    with pytest.raises(bay.NotFound):
        made.run("1")


def test_an_interrupt_ends_what_runs(box: bay.Box) -> None:
    made = box.kernels.create()
    events = made.stream("print('on', flush=True)\nwhile True: pass")
    assert next(event for event in events if event.type == "stdout").text == "on\n"
    made.interrupt()
    assert [event.status for event in events if event.type == "end"] == ["interrupted"]
    made.delete()


class Cutting(httpx.BaseTransport):
    """Breaks every streamed answer to a run or its events after its first piece, `times` times."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.calls: list[str] = []
        self._inner = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self._inner.handle_request(request)
        if "/kernels/" in request.url.path and self.times:
            self.times -= 1
            self.calls.append(request.method)
            assert isinstance(response.stream, httpx.SyncByteStream)
            return httpx.Response(
                response.status_code, headers=response.headers, stream=_FirstPiece(response.stream)
            )
        return response


class _FirstPiece(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            yield piece
            break
        raise httpx.ReadError("cut")

    def close(self) -> None:
        self._stream.close()


def test_a_connection_that_breaks_again_and_again_loses_and_doubles_nothing(
    served: tuple[str, str], box: bay.Box
) -> None:
    transport = Cutting(10)
    box.python.run("runs = 0")
    code = "import time\nruns += 1\nfor n in range(300):\n    print(n, flush=True)\n    if n % 30 == 0: time.sleep(0.02)\nruns"
    with bay.Client(*served, timeout_s=30, transport=transport) as client:
        found = client.sandboxes.get(box.id).python.run(code)
    assert found.stdout == "".join(f"{n}\n" for n in range(300))
    assert found.results[0]["text/plain"] == "1"
    assert transport.calls[0] == "POST"
    assert set(transport.calls[1:]) == {"GET"}


def test_a_cell_whose_sandbox_is_stopped_is_lost(client: bay.Client) -> None:
    with client.sandbox() as box:
        events = box.python.stream("print('on', flush=True)\nwhile True: pass")
        assert next(event for event in events if event.type == "stdout").text == "on\n"
        stopping = threading.Thread(target=box.stop)
        stopping.start()
        assert [event.status for event in events] == ["lost"]
        stopping.join(30)
        assert box.kernels.list() == []


async def _both_words(served: tuple[str, str], box_id: str) -> tuple[str, int]:
    async with bay.AsyncClient(*served, timeout_s=30) as client:
        box = await client.sandboxes.get(box_id)
        found = await box.python.run("print('async')\n2")
        return found.text, len([event async for event in box.python.stream("1")])


@pytest.mark.anyio
async def test_the_async_client_does_the_same(served: tuple[str, str], box: bay.Box) -> None:
    assert await _both_words(served, box.id) == ("async\n2", 3)


def test_the_example_of_the_docs_runs(
    served: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BAY_URL", served[0])
    monkeypatch.setenv("BAY_API_KEY", served[1])
    text = (Path(__file__).parents[2] / "docs" / "kernels.md").read_text(encoding="utf-8")
    [example] = [part.partition("```")[0] for part in text.split("```python\n")[1:]]
    exec(compile(example, "docs/kernels.md", "exec"), {})  # noqa: S102 — our own documentation
    printed = capsys.readouterr().out
    assert printed == "[1, 2, 3]\n3\n1\n2\nerror ZeroDivisionError\ntimeout 3\n'me'\n"
