"""Runs a block of Python: a program, not a test. A block may await at its top, as in a notebook.

page_python.py FILE
"""

import ast
import asyncio
import inspect
import sys
from pathlib import Path


def main(name: str) -> None:
    """Run the file as a program."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(Path(name).read_text(encoding="utf-8"), name, "exec", flags, dont_inherit=True)
    variables = {"__name__": "__main__"}
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, variables))  # noqa: S307  it is the documentation
    else:
        exec(code, variables)  # noqa: S102


if __name__ == "__main__":
    sys.path[0] = ""
    main(sys.argv.pop(1))
