"""Code in a sandbox by E2B's code interpreter: state, figures, tables, errors, contexts, callbacks."""

import base64
import json
import time

from e2b import NotFoundException, TimeoutException
from e2b_code_interpreter import Sandbox

FIGURE = """
import matplotlib.pyplot as plt
plt.plot([1, 2, 3], [4, 5, 6], label="steps")
plt.title("Walk"); plt.xlabel("Time (s)"); plt.ylabel("Way")
plt.show()
"""


def main() -> None:
    """Each group of what it does."""
    with Sandbox.create(timeout=300) as sandbox:
        run = sandbox.run_code
        run("x = 41\nx += 1")
        assert run("x").text == "42"
        assert run("import os; os.getcwd()").text == "/home/user"
        assert run("  y = 1\n  y").text == "1"  # indented, as from a program's own text
        assert run("import asyncio\nawait asyncio.sleep(0)\n'awaited'").text == "awaited"
        assert run("!echo from a shell").logs.stdout == ["from a shell\n"]
        _results(sandbox)
        _errors(sandbox)
        _contexts(sandbox)
        _callbacks(sandbox)
    print("done")


def _results(sandbox: Sandbox) -> None:
    (figure,) = sandbox.run_code(FIGURE).results
    assert base64.b64decode(figure.png).startswith(b"\x89PNG")
    assert (figure.chart.type.value, figure.chart.title, figure.chart.x_unit) == ("line", "Walk", "s")
    assert figure.chart.elements[0].points == [(1, 4), (2, 5), (3, 6)]
    assert not figure.is_main_result
    bars = sandbox.run_code("_ = plt.bar(['a', 'b'], [1, 2], label='g')").results[0].chart
    assert [(bar.label, bar.group, bar.value) for bar in bars.elements] == [("a", "g", 1), ("b", "g", 2)]
    table = sandbox.run_code("import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})").results[0]
    assert (table.data, table.is_main_result) == ({"a": [1, 2], "b": ["x", "y"]}, True)
    assert "<table" in table.html
    rich = "from IPython.display import display, JSON, Markdown, Latex\ndisplay(JSON({'k': 1}), Markdown('*m*'), Latex('$l$'))"
    shown = sandbox.run_code(rich).results
    assert (shown[0].json, shown[1].markdown, shown[2].latex) == ({"k": 1}, "*m*", "$l$")


def _errors(sandbox: Sandbox) -> None:
    answer = json.dumps({"answer": "x" * 200_000})  # as smolagents returns its final answer
    error = sandbox.run_code(f"class FinalAnswer(Exception): pass\nraise FinalAnswer({answer!r})").error
    assert (error.name, error.value) == ("FinalAnswer", answer)
    assert "Traceback" in error.traceback
    assert "\x1b" not in error.traceback
    assert sandbox.run_code("def broken(:").error.name == "SyntaxError"
    try:
        sandbox.run_code("import time\nwhile True: time.sleep(0.1)", timeout=3)
        raise AssertionError("a time-out was expected")
    except TimeoutException:
        begun = time.monotonic()
        assert sandbox.run_code("x").text == "42"  # it was interrupted, and its variables are there
        assert time.monotonic() - begun < 60
    assert sandbox.run_code("import os; os.environ['ONCE']", envs={"ONCE": "set"}).text == "set"
    assert sandbox.run_code("os.environ.get('ONCE', 'gone')").text == "gone"


def _contexts(sandbox: Sandbox) -> None:
    context = sandbox.create_code_context(cwd="/tmp", language="python")
    assert (context.language, context.cwd) == ("python", "/tmp")
    assert sandbox.run_code("z = 7; 'x' in globals()", context=context).text == "False"
    assert context.id in [each.id for each in sandbox.list_code_contexts()]
    sandbox.restart_code_context(context)
    assert sandbox.run_code("z", context=context).error.name == "NameError"
    sandbox.remove_code_context(context)
    try:
        sandbox.run_code("1", context=context)
        raise AssertionError("the context is gone")
    except NotFoundException:
        pass
    sandbox.run_code("const kept = 20; let more = 1", language="javascript")
    assert sandbox.run_code("await Promise.resolve(kept * 2 + more + 1)", language="js").text == "42"
    assert sandbox.run_code("throw new TypeError('no')", language="js").error.name == "TypeError"


def _callbacks(sandbox: Sandbox) -> None:
    seen: list[str] = []
    done = sandbox.run_code(
        "import sys\nprint('out', flush=True)\nprint('err', file=sys.stderr)\ndisplay(1)\n1 / 0",
        on_stdout=lambda message: seen.append(message.line),
        on_stderr=lambda message: seen.append(message.line),
        on_result=lambda result: seen.append(result.text),
        on_error=lambda error: seen.append(error.name),
    )
    assert seen == ["out\n", "err\n", "1", "ZeroDivisionError"], seen
    assert (done.execution_count or 0) > 1


if __name__ == "__main__":
    main()
