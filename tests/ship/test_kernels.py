"""Kernels of a real Ship: what a cell gives, in which order, and what happens when it must stop or its kernel
dies.
"""

import base64
import json
import os
import signal
import sysconfig
import threading
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from ship_harness import PATIENCE_S, TOKEN, Ship, eventually, running

pytestmark = pytest.mark.host

Event = dict[str, Any]

FOR_EVER = "import time\nwhile True: time.sleep(0.01)"
SPEAK = """
import json, os, stat
line = next(fd for fd in range(3, 50) if stat.S_ISSOCK(os.fstat(fd).st_mode))
def say(data):
    data += b'\\n'
    while data: data = data[os.write(line, data):]
def speak(message): say(json.dumps(message).encode())
"""
FINALIZER = """
class Loud:
    def __del__(self): print('also')
def again():
    loud = Loud(); loud.me = loud
import gc; gc.set_threshold(50)
"""
HANDLER = """
def again(): pass
import signal
signal.signal(signal.SIGALRM, lambda *_: print('also'))
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
"""
DEAF = "import time\nwhile True:\n    try:\n        while True: time.sleep(0.01)\n    except KeyboardInterrupt: pass"


@pytest.fixture(scope="module")
def shared() -> Iterator[Ship]:
    """One Ship for all tests of the module; each takes kernels of its own."""
    with running(SHIP_USER="tester") as found:
        yield found


class Kernel:
    """A kernel of a test. Given back at the end."""

    def __init__(self, ship: Ship, **more: Any) -> None:
        self.ship = ship
        self.id = f"kern-{uuid.uuid4().hex[:12]}"
        answer = ship.http.post("/kernels", json={"id": self.id, **more})
        assert answer.status_code == 201, answer.text

    def run(self, code: str, **more: Any) -> "Ran":
        return Ran(list(lines(self.ask(code, **more))))

    def ask(self, code: str, follow: bool = True, **more: Any) -> httpx.Response:
        body = {"id": f"cell-{uuid.uuid4().hex[:12]}", "code": code, **more}
        params = {"follow": "true"} if follow else {}
        answer = self.ship.http.post(f"/kernels/{self.id}/cells", params=params, json=body)
        assert answer.status_code in (200, 201), answer.text
        return answer

    def queue(self, code: str, **more: Any) -> str:
        """Start a cell without waiting; its id."""
        return self.ask(code, follow=False, **more).json()["id"]

    def events(self, cell: str, since: int = 0) -> "Ran":
        path = f"/kernels/{self.id}/cells/{cell}/events"
        answer = self.ship.http.get(path, params={"since": since, "follow": "true"})
        assert answer.status_code == 200, answer.text
        return Ran(list(lines(answer)))

    def wait_event(self, cell: str, kind: str) -> None:
        path = f"/kernels/{self.id}/cells/{cell}/events"
        with self.ship.http.stream("GET", path, params={"follow": "true"}) as answer:
            assert any(json.loads(line)["type"] == kind for line in answer.iter_lines())

    def post(self, action: str) -> Event:
        answer = self.ship.http.post(f"/kernels/{self.id}/{action}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def show(self) -> Event:
        return self.ship.http.get(f"/kernels/{self.id}").json()


class Ran:
    """The events of a cell."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.end = events[-1]
        assert self.end["type"] == "end"
        assert all("cell" not in event for event in events)

    def text(self, stream: str = "stdout") -> str:
        return "".join(event["text"] for event in self.of(stream))

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["type"] == kind]

    @property
    def result(self) -> Event:
        (event,) = self.of("result")
        return event["data"]

    @property
    def error(self) -> Event:
        (event,) = self.of("error")
        return event


def lines(answer: httpx.Response) -> Iterator[Event]:
    return (json.loads(line) for line in answer.text.splitlines())


@pytest.fixture
def kernel(shared: Ship) -> Iterator[Kernel]:
    found = Kernel(shared)
    yield found
    shared.http.delete(f"/kernels/{found.id}")


@pytest.fixture(scope="module")
def calm(shared: Ship) -> Kernel:
    """A kernel for tests that leave nothing behind in it."""
    return Kernel(shared)


def test_a_kernel_remembers_from_cell_to_cell(kernel: Kernel) -> None:
    assert kernel.run("x = 20").end["status"] == "ok"
    ran = kernel.run("print('hello')\nx + 1")
    assert [event["type"] for event in ran.events] == ["start", "stdout", "result", "end"]
    assert [event["seq"] for event in ran.events] == [0, 1, 2, 3]
    assert ran.text() == "hello\n"
    assert ran.result == {"text/plain": "21"}
    assert ran.end == {**ran.end, "status": "ok", "execution_count": 2, "restarted": False, "message": None}
    shown = kernel.show()
    assert (shown["state"], shown["language"], shown["execution_count"]) == ("idle", "python", 2)


def test_the_first_cell_makes_the_kernel_default(ship: Ship) -> None:
    answer = ship.http.post(
        "/kernels/default/cells", params={"follow": "true"}, json={"id": "c", "code": "6 * 7"}
    )
    assert Ran(list(lines(answer))).result == {"text/plain": "42"}
    assert [kernel["id"] for kernel in ship.http.get("/kernels").json()["items"]] == ["default"]
    assert ship.http.get("/execs").json() == {"items": []}
    cell = ship.http.get("/cells/c").json()
    assert (cell["kernel"], cell["state"], cell["status"]) == ("default", "ended", "ok")


def default_cell(ship: Ship, code: str, **env: str) -> "Ran":
    """A cell of the default kernel, in a sandbox with that environment."""
    body = {"id": f"cell-{uuid.uuid4().hex[:12]}", "code": code, "env": env}
    answer = ship.http.post("/kernels/default/cells", params={"follow": "true"}, json=body)
    assert answer.status_code == 200, answer.text
    return Ran(list(lines(answer)))


def package(ship: Ship, folder: str) -> str:
    """The directory of a module `mine`, to be found by PYTHONPATH."""
    (ship.workspace / folder).mkdir()
    (ship.workspace / folder / "mine.py").write_text(f"where = {folder!r}\n")
    return str(ship.workspace / folder)


@pytest.mark.parametrize("kernel", ["lazy", "eager"])
def test_the_default_kernel_starts_with_the_environment_of_its_sandbox(kernel: str) -> None:
    with running(SHIP_KERNEL=kernel) as ship:
        path = package(ship, "one")
        ran = default_cell(ship, "import mine; mine.where", PYTHONPATH=path)
        assert ran.result["text/plain"] == "'one'"
        assert ran.end["restarted"] is False


def test_a_running_kernel_keeps_its_variables_and_takes_another_pythonpath_when_it_starts_again() -> None:
    with running() as ship:
        first, second = package(ship, "one"), package(ship, "two")
        default_cell(ship, "kept = 1", PYTHONPATH=first)
        ran = default_cell(
            ship, "import mine, os; (kept, mine.where, os.environ['PYTHONPATH'])", PYTHONPATH=second
        )
        assert ran.result["text/plain"] == f"(1, 'one', '{second}')"
        assert ship.http.post("/kernels/default/restart").status_code == 200
        assert (
            default_cell(ship, "import mine; mine.where", PYTHONPATH=second).result["text/plain"] == "'two'"
        )


def test_an_eager_kernel_that_was_told_its_environment_is_not_started_twice() -> None:
    with running(SHIP_KERNEL="eager", SHIP_KERNEL_ENV='{"TOLD": "1"}') as ship:
        assert eventually(lambda: ship.http.get("/kernels/default").json()["state"] == "idle", 30)
        pid = ship.http.get("/kernels/default").json()["pid"]
        assert default_cell(ship, "import os; os.getpid()", TOLD="1").result["text/plain"] == str(pid)


def test_what_code_puts_into_the_environment_stays_there() -> None:
    with running() as ship:
        default_cell(ship, "import os; os.environ['MINE'] = 'changed'", MINE="given")
        assert default_cell(ship, "os.environ['MINE']", MINE="given").result["text/plain"] == "'changed'"


def test_the_variables_of_a_kernel_go_before_those_of_the_sandbox(shared: Ship) -> None:
    kernel = Kernel(shared, env={"WHO": "me", "ALSO": "1"}, own_env={"WHO": "me"})
    ran = kernel.run("import os; (os.environ['WHO'], os.environ['ALSO'])", env={"WHO": "them", "ALSO": "2"})
    assert ran.result["text/plain"] == "('me', '2')"


def test_tables_are_described_where_a_cell_asks_for_it(kernel: Kernel) -> None:
    described = "application/vnd.bay.table+json"
    kernel.run("class Table:\n    def _repr_bay_table_(self): return {'rows': 0}")
    assert kernel.run("Table()", describe=True).result[described] == {"rows": 0}
    assert set(kernel.run("Table()").result) == {"text/plain"}


def test_what_only_looks_like_a_table_or_a_figure_is_shown_as_it_is(kernel: Kernel) -> None:
    kernel.run(
        "class Liar:\n    def __getattr__(self, name): raise RuntimeError\n    def __repr__(self): return 'liar'\n"
        "class DataFrame(Liar): __module__ = 'pandas'\nclass Figure(Liar): __module__ = 'matplotlib.figure'"
    )
    for name in ("DataFrame", "Figure"):
        ran = kernel.run(f"{name}()", describe=True)
        assert (ran.result, ran.end["status"]) == ({"text/plain": "liar"}, "ok")


def test_an_attached_cell_is_interrupted_when_its_caller_leaves(shared: Ship) -> None:
    kernel = Kernel(shared)
    path, params = f"/kernels/{kernel.id}/cells", {"follow": "true", "attached": "true"}
    body = {"id": f"cell-{uuid.uuid4().hex[:12]}", "code": f"kept = 1\nprint('here')\n{FOR_EVER}"}
    with shared.http.stream("POST", path, params=params, json=body) as answer:
        assert any("here" in line for line in answer.iter_lines())
    assert kernel.run("kept").result["text/plain"] == "1"
    assert kernel.events(body["id"]).end["status"] == "interrupted"


def test_the_variables_of_a_cell_go_before_all_others_and_are_put_back(shared: Ship) -> None:
    kernel = Kernel(shared, env={"WHO": "me"}, own_env={"WHO": "me"})
    show = "import os; (os.environ.get('WHO'), os.environ.get('ONCE'), os.popen('echo $ONCE').read())"
    pid = kernel.show()["pid"]
    ran = kernel.run(show, own_env={"WHO": "them", "ONCE": "1"})
    assert ran.result["text/plain"] == "('them', '1', '1\\n')"
    assert kernel.run(show).result["text/plain"] == "('me', None, '\\n')"
    kernel.run(FOR_EVER, own_env={"ONCE": "2"}, timeout_s=0.2)
    assert kernel.run(show).result["text/plain"] == "('me', None, '\\n')"
    assert (
        kernel.show()["pid"] == pid
    )  # they are not the sandbox's, with which an unused process would be renewed


def test_an_eager_kernel_is_there_before_anyone_asks() -> None:
    with running(SHIP_KERNEL="eager") as ship:

        def idle() -> bool:
            return [k["state"] for k in ship.http.get("/kernels").json()["items"]] == ["idle"]

        assert eventually(idle)


def test_three_hundred_quick_prints_are_three_hundred_right_answers(calm: Kernel) -> None:
    for number in range(300):
        assert calm.run(f"print({number})", id=f"quick-{number}").text() == f"{number}\n"
    kept = [calm.ship.http.get(f"/cells/quick-{number}").status_code for number in (0, 299)]
    assert kept == [404, 200]


def test_a_loop_of_prints_loses_nothing(calm: Kernel) -> None:
    ran = calm.run("for i in range(20_000): print(i)")
    assert ran.text() == "".join(f"{i}\n" for i in range(20_000))
    assert len(ran.events) < 2000


@pytest.mark.parametrize("also", [FINALIZER, HANDLER], ids=["finalizer", "signal handler"])
def test_who_prints_in_the_middle_of_a_print_harms_no_line(kernel: Kernel, also: str) -> None:
    ran = kernel.run(
        also + "for i in range(10_000):\n    again(); print('x')\n    print('x' * 3000) if i % 50 == 0 else 0"
    )
    assert (ran.end["status"], ran.end["restarted"]) == ("ok", False)
    assert ran.text().replace("also", "").count("x") == 10_000 + 200 * 3000
    assert ran.text().count("also") > 10
    assert kernel.run("import signal; _ = signal.setitimer(signal.ITIMER_REAL, 0)").end["status"] == "ok"


def test_cells_that_come_together_run_one_after_another(calm: Kernel) -> None:
    cells = [calm.queue(f"import time; print({n}); time.sleep(0.01); print({n})") for n in range(20)]
    assert [calm.events(cell).text() for cell in cells] == [f"{n}\n{n}\n" for n in range(20)]
    counts = [calm.events(cell).end["execution_count"] for cell in cells]
    assert counts == list(range(counts[0], counts[0] + 20))


def test_the_same_cell_again_gives_its_events_again(calm: Kernel) -> None:
    first = calm.run("print('once')", id="same").events
    assert calm.run("print('never run')", id="same").events == first
    assert calm.events("same", since=1).events == first[1:]
    beyond = calm.ship.http.get(f"/kernels/{calm.id}/cells/same/events", params={"since": 99})
    assert beyond.status_code == 400


def test_an_error_says_its_name_value_and_traceback(calm: Kernel) -> None:
    ran = calm.run("def f(): return 1 / 0\nf()")
    assert ran.end["status"] == "error"
    assert (ran.error["ename"], ran.error["evalue"]) == ("ZeroDivisionError", "division by zero")
    assert "f()" in "\n".join(ran.error["traceback"])
    assert "\x1b" not in "\n".join(ran.error["traceback"])
    assert calm.run("def f(:").error["ename"] == "SyntaxError"


def test_an_exception_that_cannot_say_what_it_is_is_still_an_error(calm: Kernel) -> None:
    ran = calm.run("class E(Exception):\n    def __str__(self): raise ValueError\nraise E")
    assert (ran.end["status"], ran.error["ename"]) == ("error", "E")


def test_input_is_refused_in_words_at_once(calm: Kernel) -> None:
    ran = calm.run("input('name? ')")
    assert ran.end["status"] == "error"
    assert "nobody can type here" in ran.error["evalue"]
    assert calm.run("import sys; sys.stdin.read()").result == {"text/plain": "''"}


def test_await_works_at_the_top_of_a_cell(calm: Kernel) -> None:
    assert calm.run("import asyncio\nawait asyncio.sleep(0.01, 'done')").result == {"text/plain": "'done'"}


def test_displays_are_bundles_and_can_be_updated(calm: Kernel) -> None:
    code = """
from IPython.display import HTML, JSON, SVG, Latex, Image, display, clear_output
handle = display(HTML('<b>x</b>'), display_id='here')
handle.update(JSON({'n': float('nan'), 'deep': [1]}))
display(Latex('$x$')); display(SVG('<svg xmlns="http://www.w3.org/2000/svg"/>'))
display(Image(b'\\x89PNG', format='png'))
display({'application/vnd.plotly.v1+json': {'data': [{'y': (1, 2)}]}}, raw=True)
clear_output(wait=True)
"""
    ran = calm.run(code)
    first, second, *rest = ran.of("display")
    assert (first["data"]["text/html"], first["display_id"]) == ("<b>x</b>", "here")
    assert (second["data"]["application/json"], second["update"]) == ({"n": None, "deep": [1]}, True)
    assert [sorted(event["data"])[-1] for event in rest] == [
        *("text/plain", "text/plain", "text/plain", "application/vnd.plotly.v1+json")
    ]
    assert rest[0]["data"]["text/latex"] == "$x$"
    assert rest[1]["data"]["image/svg+xml"].startswith("<svg")
    assert base64.b64decode(rest[2]["data"]["image/png"]) == b"\x89PNG"
    assert rest[3]["data"]["application/vnd.plotly.v1+json"] == {"data": [{"y": [1, 2]}]}
    assert ran.of("clear") == [{"seq": 7, "type": "clear", "wait": True}]


def test_a_bundle_that_is_too_large_is_a_note(calm: Kernel) -> None:
    ran = calm.run("from IPython.display import HTML\nHTML('x' * (9 << 20))")
    assert list(ran.result) == ["text/plain"]
    assert "not shown" in ran.result["text/plain"]
    ran = calm.run("from IPython.display import JSON\nJSON({'many': [[]] * 1_000_001})")
    assert "not shown" in ran.result["text/plain"]


def test_what_programs_print_comes_in_its_place(calm: Kernel) -> None:
    ran = calm.run("for i in range(20):\n    print(i)\n    !echo two; echo apart >&2\nprint('three')")
    assert ran.text() == "".join(f"{i}\ntwo\n" for i in range(20)) + "three\n"
    assert ran.text("stderr") == 20 * "apart\n"
    run = "print('one'); subprocess.run(['echo', 'two']); os.system('echo three')\n"
    ran = calm.run("import os, subprocess\nfor _ in range(20):\n    " + run)
    assert ran.text() == 20 * "one\ntwo\nthree\n"
    assert calm.run("import os; _ = os.write(1, b'f\\xc3\\xbc\\xff')").text() == "fü�"


def test_a_handler_that_raises_in_the_middle_of_output_leaves_a_kernel_that_works(kernel: Kernel) -> None:
    code = """
import signal, subprocess
class Late(Exception): pass
def late(*_): raise Late
signal.signal(signal.SIGALRM, late)
for n in range(200):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002 + n * 0.00001)
        for _ in range(3): print('x' * 5000); subprocess.Popen(['true']).wait()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Late: pass
"""
    assert kernel.run(code).end["status"] == "ok"
    ran = kernel.run("print('one'); _ = subprocess.run(['echo', 'two']); print('three')")
    assert (ran.text(), ran.end["restarted"]) == ("one\ntwo\nthree\n", False)


def test_a_kernel_keeps_nothing_of_what_was_printed_and_can_do_without_streams(kernel: Kernel) -> None:
    assert kernel.run("print('x')\nlen(get_ipython().history_manager.outputs)").result["text/plain"] == "0"
    kernel.run("import sys; sys.stdout = sys.stderr = None")
    assert kernel.run("print(1)\n2").result == {"text/plain": "2"}


def test_half_characters_and_bytes_pass_unharmed(calm: Kernel) -> None:
    ran = calm.run("import sys\nprint('a\\ud800b')\n_ = sys.stdout.buffer.write('ü'.encode())")
    assert ran.text() == "a?b\nü"


def test_text_that_is_too_much_is_dropped_and_said(kernel: Kernel) -> None:
    ran = kernel.run("for _ in range(20): print('x' * (1 << 20))\n'still here'")
    assert ran.end["truncated"]
    assert ran.end["status"] == "ok"
    assert 12 << 20 < len(ran.text()) <= 16 << 20
    assert kernel.run("print('next')").text() == "next\n"


def test_errors_without_end_are_dropped_too(kernel: Kernel) -> None:
    lie = {"type": "error", "cell": "liar", "ename": "E", "evalue": "", "traceback": ["x" * 250_000]}
    ran = kernel.run(SPEAK + f"for _ in range(200): speak({lie!r})\n1 / 0", id="liar")
    assert ran.end["truncated"]
    assert (ran.end["status"], ran.of("start")[0]["seq"]) == ("error", 0)
    assert sum(len(json.dumps(event)) for event in ran.events) < 37 << 20


def test_an_error_after_too_much_text_is_kept(kernel: Kernel) -> None:
    ran = kernel.run("for _ in range(20): print('x' * (1 << 20))\n1 / 0")
    assert ran.end["truncated"]
    assert ran.error["ename"] == "ZeroDivisionError"


def test_the_value_of_an_error_comes_whole_and_one_that_is_too_long_says_so(kernel: Kernel) -> None:
    """Programs return results in it."""
    whole = json.dumps({"answer": ["ü\n"] * 300_000}, ensure_ascii=False)
    kernel.run("import json; text = json.dumps({'answer': ['ü\\n'] * 300_000}, ensure_ascii=False)")
    error = kernel.run("raise ValueError(text)").error
    assert error["evalue"] == whole
    assert error["traceback"][-1].endswith(whole)
    error = kernel.run("raise ValueError('\\x01' + 'x' * (9 << 20))").error
    assert error["evalue"] == f"\x01{'x' * ((8 << 20) - 1)}… [{(1 << 20) + 1} more characters are not shown]"
    assert "characters are not shown]" in error["traceback"][1]
    error = kernel.run("raise ValueError('\\x01' * (8 << 20))").error
    assert error["evalue"].endswith(f"… [{7 << 20} more characters are not shown]")


def test_a_thread_prints_to_its_own_cell_and_to_no_later_one(kernel: Kernel) -> None:
    code = """
import threading
go, gone = threading.Event(), threading.Event()
def late():
    print('early', flush=True); go.wait(10); print('late', flush=True); gone.set()
thread = threading.Thread(target=late); thread.start()
import time
while not thread.is_alive(): time.sleep(0.001)
time.sleep(0.05)
"""
    assert kernel.run(code).text() == "early\n"
    assert kernel.run("go.set(); _ = gone.wait(10); print('mine')").text() == "mine\n"


def test_a_pool_prints_to_the_cell_that_gave_the_work(kernel: Kernel) -> None:
    code = "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor(1)\n"
    assert kernel.run(code + "pool.submit(print, 'first').result()").text() == "first\n"
    assert kernel.run("pool.submit(print, 'second').result()").text() == "second\n"


def test_a_forked_child_ends_with_its_cell(kernel: Kernel) -> None:
    code = "import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nprint('child' if not pid else 'parent')"
    ran = kernel.run(code)
    assert sorted(ran.text().split()) == ["child", "parent"]
    assert len(ran.of("end")) == 1
    assert kernel.run("1").result == {"text/plain": "1"}


@pytest.mark.parametrize(
    ("ends", "code"), [("sys.exit(3)", 3), ("sys.exit()", 0), ("sys.exit('no')", 1), ("1 / 0", 1), ("1", 0)]
)
def test_a_forked_child_ends_with_the_exit_code_of_its_code(calm: Kernel, ends: str, code: int) -> None:
    ran = calm.run(
        f"import os, sys\npid = os.fork()\nif not pid: {ends}\nelse: print(os.waitpid(pid, 0)[1] >> 8)"
    )
    assert ran.text() == f"{code}\n"
    assert ("ZeroDivisionError" in ran.text("stderr")) == (ends == "1 / 0")


def test_exit_ends_the_cell_and_not_the_kernel(kernel: Kernel) -> None:
    kernel.run("x = 1")
    for code in ("exit()", "quit()", "import sys; sys.exit()", "raise SystemExit(0)"):
        ran = kernel.run(code)
        assert (ran.end["status"], ran.of("error"), ran.text("stderr")) == ("ok", [], "")
    ran = kernel.run("import sys; sys.exit(3)")
    assert (ran.end["status"], ran.error["ename"], ran.error["evalue"]) == ("error", "SystemExit", "3")
    assert kernel.run("x").result == {"text/plain": "1"}


def test_a_timeout_interrupts_and_keeps_the_variables(kernel: Kernel) -> None:
    ran = kernel.run("x = 5\n" + FOR_EVER, timeout_s=0.3)
    assert ran.end["status"] == "timeout"
    assert not ran.end["restarted"]
    assert "longer than 0.3 s" in ran.end["message"]
    assert "variables are kept" in ran.end["message"]
    assert kernel.run("print(x)").text() == "5\n"


def test_a_timeout_also_ends_what_the_cell_waits_for(kernel: Kernel) -> None:
    assert kernel.run("!sleep 60", timeout_s=0.2).end["status"] in ("timeout",)
    ran = kernel.run("import asyncio\nawait asyncio.sleep(60)", timeout_s=0.2)
    assert (ran.end["status"], ran.end["restarted"]) == ("timeout", False)
    assert kernel.run("print('next')").text() == "next\n"


def test_what_does_not_listen_is_killed_and_said(kernel: Kernel) -> None:
    kernel.run("x = 5")
    ran = kernel.run(DEAF, timeout_s=0.2)
    assert (ran.end["status"], ran.end["restarted"]) == ("timeout", True)
    assert "did not stop within 2 s" in ran.end["message"]
    assert "variables are gone" in ran.end["message"]
    assert kernel.run("'x' in globals()").result == {"text/plain": "False"}


def test_an_interrupt_ends_the_cell_and_lets_the_next_run(kernel: Kernel) -> None:
    first = kernel.queue("print('begun')\n" + FOR_EVER)
    second = kernel.queue("'second'")
    kernel.wait_event(first, "stdout")
    assert kernel.show()["state"] == "busy"
    kernel.post("interrupt")
    assert kernel.events(first).end["status"] == "interrupted"
    assert kernel.events(first).error["ename"] == "KeyboardInterrupt"
    assert kernel.events(second).result == {"text/plain": "'second'"}


def test_an_interrupt_right_after_the_question_is_not_lost(kernel: Kernel) -> None:
    """Whether the kernel is still starting, as the first time, or has just been given the cell."""
    for _ in range(20):
        cell = kernel.queue(FOR_EVER)
        kernel.post("interrupt")
        end = kernel.events(cell).end
        assert (end["status"], end["restarted"]) == ("interrupted", False)


def test_an_interrupt_of_an_idle_kernel_does_nothing(kernel: Kernel) -> None:
    kernel.run("x = 1")
    kernel.post("interrupt")
    assert kernel.run("x").result == {"text/plain": "1"}


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os, signal\nprint('last words')\nos.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
        ("import os\nprint('last words', flush=True)\nos._exit(7)", "exit code 7"),
        ("print('last words')\nimport ctypes\nctypes.string_at(0)", "signal 11"),
    ],
    ids=["killed", "exited", "crashed"],
)
def test_a_kernel_that_dies_loses_its_cell_and_comes_back(kernel: Kernel, code: str, words: str) -> None:
    waiting = kernel.queue(code), kernel.queue("'next'")
    ran, following = (kernel.events(cell) for cell in waiting)
    assert (ran.end["status"], ran.end["restarted"]) == ("lost", True)
    assert words in ran.end["message"]
    assert "last words" in ran.text()
    assert following.result == {"text/plain": "'next'"}


def test_a_kernel_that_dies_between_cells_says_so_at_the_next(kernel: Kernel) -> None:
    kernel.run("x = 1")
    os.kill(kernel.show()["pid"], signal.SIGKILL)
    assert eventually(lambda: kernel.show()["state"] == "dead")
    assert "signal 9" in kernel.show()["message"]
    ran = kernel.run("'x' in globals()")
    assert ran.result == {"text/plain": "False"}
    assert ran.end["restarted"]
    assert "variables are gone" in ran.end["message"]


def test_a_restart_is_empty_and_loses_what_waits(kernel: Kernel) -> None:
    kernel.run("x = 1")
    cells = [kernel.queue(FOR_EVER), kernel.queue("1")]
    kernel.wait_event(cells[0], "start")
    old = kernel.show()["pid"]
    assert kernel.post("restart")["pid"] != old
    assert [kernel.events(cell).end["status"] for cell in cells] == ["lost", "lost"]
    assert kernel.run("'x' in globals()").result == {"text/plain": "False"}


def test_a_deleted_kernel_leaves_no_process(shared: Ship) -> None:
    kernel = Kernel(shared)
    code = (
        "import subprocess\nchild = subprocess.Popen(['setsid', 'sleep', '600'], env={'TEST_MARK': '"
        + shared.mark
        + "', 'PATH': '/usr/bin:/bin'})\nchild.pid"
    )
    child = int(kernel.run(code).result["text/plain"])
    cell = kernel.queue(FOR_EVER)
    kernel.wait_event(cell, "start")
    pid = kernel.show()["pid"]
    assert shared.http.delete(f"/kernels/{kernel.id}").status_code == 200
    assert not {pid, child} & set(shared.left())
    assert shared.http.get(f"/cells/{cell}").json()["status"] == "lost"
    assert shared.http.get(f"/kernels/{kernel.id}").status_code == 404


def slow_to_end(ship: Ship, **more: Any) -> Kernel:
    """A kernel with many programs."""
    kernel = Kernel(ship, **more)
    kernel.run("import subprocess\nfor _ in range(60): subprocess.Popen(['sleep', '600'])")
    return kernel


def has_words(pid: int, words: bytes) -> bool:
    try:
        return words in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@contextmanager
def meanwhile(ship: Ship, method: str, path: str) -> Generator[Callable[[], bool]]:
    """A call in a thread; whether it is still going on."""

    def call() -> None:
        with ship.client(TOKEN) as client:
            client.request(method, path)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield thread.is_alive
    finally:
        thread.join(PATIENCE_S)


@pytest.mark.parametrize("action", ["delete", "restart"])
def test_no_cell_waits_for_a_kernel_that_is_gone(shared: Ship, action: str) -> None:
    """The restart fails, since its directory is not there any more."""
    shared.put("away/there", b"")
    kernel = slow_to_end(shared, cwd="away")
    shared.delete("away")
    path = f"/kernels/{kernel.id}"
    call = ("DELETE", path) if action == "delete" else ("POST", f"{path}/restart")
    taken: list[str] = []
    with meanwhile(shared, *call) as going_on:
        while going_on():
            cell = f"{action}-{len(taken)}"
            if shared.http.post(f"{path}/cells", json={"id": cell, "code": "1"}).status_code == 201:
                taken.append(cell)
    states = [shared.http.get(f"/cells/{cell}") for cell in taken]
    assert {answer.json()["state"] for answer in states} <= {"ended"}
    shared.http.delete(path)


def test_what_a_dead_kernel_left_behind_ends_with_a_delete_in_the_same_moment(shared: Ship) -> None:
    kernel = slow_to_end(shared)
    kernel.queue("import os; os._exit(1)")
    assert shared.http.delete(f"/kernels/{kernel.id}").status_code == 200
    assert eventually(lambda: not [pid for pid in shared.left() if has_words(pid, b"sleep")], 5)


def test_a_restart_brings_no_deleted_kernel_back(shared: Ship) -> None:
    path = f"/kernels/{slow_to_end(shared).id}"
    before = set(shared.left())
    with meanwhile(shared, "DELETE", path) as going_on:
        while going_on():
            shared.http.post(f"{path}/restart")
    assert set(shared.left()) < before


def test_a_follower_gets_events_as_they_come(kernel: Kernel) -> None:
    cell = kernel.queue("import os, time\nprint('first')\nwhile not os.path.exists('go'): time.sleep(0.01)")
    path = f"/kernels/{kernel.id}/cells/{cell}/events"
    with kernel.ship.http.stream("GET", path, params={"follow": "true"}) as answer:
        found = (json.loads(line) for line in answer.iter_lines())
        assert next(event for event in found if event["type"] == "stdout")["text"] == "first\n"
        kernel.ship.put("go", b"")
        assert list(found)[-1]["status"] == "ok"
    kernel.ship.delete("go")


def test_environment_and_directory_are_the_kernels_and_those_of_a_cell_its_own(shared: Ship) -> None:
    shared.put("sub/there", b"")
    kernel = Kernel(shared, cwd="sub", env={"COLOUR": "red"}, own_env={})
    show = "import os\nos.listdir(), os.environ['COLOUR'], os.environ.get('ONCE'), os.environ['USER']"
    assert (
        kernel.run(show, env={"COLOUR": "red"}).result["text/plain"] == "(['there'], 'red', None, 'tester')"
    )
    assert kernel.run(show, env={"ONCE": "1", "COLOUR": "blue"}).result["text/plain"] == (
        "(['there'], 'blue', '1', 'tester')"
    )
    assert kernel.run(show).result["text/plain"] == "(['there'], 'red', None, 'tester')"
    shared.http.delete(f"/kernels/{kernel.id}")


def test_a_file_in_the_workspace_does_not_stand_in_the_way_of_the_kernel(shared: Ship) -> None:
    shared.put("random.py", b"raise SystemExit('mine')")
    shared.put("mine.py", b"answer = 42")
    kernel = Kernel(shared)
    assert kernel.run("import mine; mine.answer").result == {"text/plain": "42"}
    shared.http.delete(f"/kernels/{kernel.id}")
    named = Kernel(shared, env={"PYTHONPATH": str(shared.workspace)})
    assert named.run("import mine; mine.answer").result == {"text/plain": "42"}
    shared.http.delete(f"/kernels/{named.id}")
    shared.delete("random.py")


def test_a_kernel_writes_nothing_into_the_workspace(calm: Kernel) -> None:
    calm.run("1")
    assert ".ipython" not in [entry["name"] for entry in calm.ship.listed()[0]]


def test_lies_on_the_line_are_dropped(kernel: Kernel) -> None:
    """Code of the user's finds the descriptor and speaks for the kernel."""
    code = """
import os, stat
line = next(fd for fd in range(3, 50) if stat.S_ISSOCK(os.fstat(fd).st_mode))
for lie in (b'[]', b'nonsense', b'{"type": 7}', b'\\xff', b'{"type":"result","cell":"cell-other","data":{}}',
            b'[' * 100_000, b'{"type":"stdout","cell":"me","text":["x"]}', b'{"type":"end","cell":"cell-other"}',
            b'{"type":"display","cell":"me","data":NaN}', b'x' * 200_000):
    os.write(line, lie + b'\\n')
"""
    ran = kernel.run(code, id="me")
    assert [event["type"] for event in ran.events] == ["start", "end"], ran.events
    assert kernel.run("1").result == {"text/plain": "1"}


@pytest.mark.parametrize(
    "lie",
    [
        '{"type":"display","cell":"CELL","data":{"application/json":1e999},"metadata":{}}',
        '{"type":"end","cell":"CELL","status":[]}',
        '{"type":"display","cell":"CELL","data":{"a":'
        + "[" * 900
        + '"\\ud800"'
        + "]" * 900
        + '},"metadata":{}}',
        '{"type":"display","cell":"CELL","data":{"a":' + "[" * 50_000 + "]" * 50_000 + '},"metadata":{}}',
        '{"type":"display","cell":"CELL","data":{"a":[' + "[]," * 2_000_000 + '0]},"metadata":{}}',
    ],
    ids=["infinite", "unhashable", "deep halves", "deep", "many"],
)
def test_values_that_cannot_be_handed_on_end_no_kernel(kernel: Kernel, lie: str) -> None:
    kernel.run("x = 1")
    kernel.ship.put("lie", lie.replace("CELL", kernel.id).encode())
    ran = kernel.run(SPEAK + "say(open('lie', 'rb').read())", id=kernel.id)
    assert "Infinity" not in json.dumps(ran.events)
    assert kernel.run("x").result == {"text/plain": "1"}
    kernel.ship.delete("lie")


def test_a_line_without_end_is_not_kept(kernel: Kernel) -> None:
    before = kernel.ship.rss()
    code = """
import os, stat
line = next(fd for fd in range(3, 50) if stat.S_ISSOCK(os.fstat(fd).st_mode))
block = b'x' * (1 << 20)
for _ in range(100):
    left = block
    while left: left = left[os.write(line, left):]
os.write(line, b'\\n')
"""
    assert kernel.run(code).end["status"] == "ok"
    assert kernel.ship.rss() - before < 40 << 20


def test_a_kernel_that_closes_its_line_is_ended(kernel: Kernel) -> None:
    end = kernel.run("import os\nos.closerange(3, 1000)\n" + FOR_EVER).end
    assert end["status"] == "lost"
    assert "closed its connection to Ship" in end["message"]
    assert kernel.run("1").result == {"text/plain": "1"}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/kernels", {"id": "a/b"}, 400),
        ("/kernels", {"id": "a", "spec": "cobol"}, 400),
        ("/kernels", {"id": "a", "cwd": "/etc"}, 403),
        ("/kernels", {"id": "a", "cwd": "missing"}, 404),
        ("/kernels", {"id": "a", "env": {"A": 1}}, 400),
        ("/kernels", {"id": "a", "user": "nobody"}, 400),
        ("/kernels", [], 400),
        ("/kernels/none/cells", {"id": "c", "code": "1"}, 404),
        ("/kernels/default/cells", {"id": "c"}, 400),
        ("/kernels/default/cells", {"id": "c", "code": "1", "timeout_s": 0}, 400),
        ("/kernels/none/interrupt", {}, 404),
        ("/kernels/none/restart", {}, 404),
        ("/kernels/none/nonsense", {}, 404),
    ],
)
def test_bad_questions_are_refused(shared: Ship, path: str, body: Any, status: int) -> None:
    assert shared.http.post(path, json=body).status_code == status
    assert shared.http.get("/kernels/a").status_code == 404


def test_an_id_is_given_once(calm: Kernel) -> None:
    assert calm.ship.http.post("/kernels", json={"id": calm.id}).status_code == 409
    cell = calm.queue("1")
    answer = calm.ship.http.post("/kernels/default/cells", json={"id": cell, "code": "1"})
    assert answer.status_code == 409
    assert calm.ship.http.get("/cells/none").status_code == 404


def test_there_is_a_bound_on_kernels_and_on_cells_that_wait(ship: Ship) -> None:
    for number in range(16):
        assert ship.http.post("/kernels", json={"id": f"k{number}"}).status_code == 201
    assert ship.http.post("/kernels", json={"id": "one-more"}).status_code == 409
    statuses = {ship.http.post("/kernels/k0/cells", json=waiting(n)).status_code for n in range(1002)}
    assert statuses == {201, 409}


def test_there_is_a_bound_on_the_code_that_waits(kernel: Kernel) -> None:
    kernel.queue(FOR_EVER)
    large = {"code": "#" * (10 << 20)}
    path = f"/kernels/{kernel.id}/cells"
    statuses = [kernel.ship.http.post(path, json={"id": f"large-{n}", **large}).status_code for n in range(2)]
    assert statuses == [201, 409]


def waiting(number: int) -> dict[str, str]:
    return {"id": f"c{number}", "code": "import time; time.sleep(60)"}


def test_many_followers_see_the_same(calm: Kernel) -> None:
    cell = calm.queue("import time\nfor i in range(50):\n    print(i); time.sleep(0.002)")
    seen: list[list[Event]] = []
    readers = [threading.Thread(target=lambda: seen.append(calm.events(cell).events)) for _ in range(5)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(PATIENCE_S)
    assert len(seen) == 5
    assert all(events == seen[0] for events in seen)


@pytest.mark.skipif(os.getuid() != 0, reason="switching the user takes root")
def test_a_python_that_cannot_be_run_is_passed_over(tmp_path: Path) -> None:
    """Root alone may run the first of these, and nobody the second."""
    hidden, broken = tmp_path / "hidden", tmp_path / "broken"
    hidden.mkdir(mode=0o700)
    (hidden / "python3").symlink_to("/usr/bin/python3")
    broken.mkdir()
    (broken / "python3").write_bytes(b"\x7fELF nonsense")
    (broken / "python3").chmod(0o755)
    packages = sysconfig.get_path("purelib")
    with running(first=True) as ship:
        kernel = Kernel(ship, env={"PATH": f"{hidden}:/usr/bin", "PYTHONPATH": packages})
        assert kernel.run("import os; os.getuid()").result == {"text/plain": "1000"}
        kernel = Kernel(ship, env={"PATH": str(broken)}, user="root")
        assert kernel.run("import os; os.getuid()").result == {"text/plain": "0"}


def test_python_is_among_the_specs(calm: Kernel) -> None:
    first = calm.ship.http.get("/kernelspecs").json()["items"][0]
    assert first == {"name": "python3", "display_name": "Python 3", "language": "python"}
    assert "python" in calm.ship.http.get("/meta").json()["capabilities"]
