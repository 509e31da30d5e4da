"""Boot of a kernel: Ship starts this with an interpreter, which becomes a kernel or tries the next one.

    python3 boot.py HOME KIND [NEXT ...]

HOME holds this package, with IPython and its dependencies beside it. KIND is `python`, or `jupyter:NAME` for
a kernel spec of the image. NEXT is the command of the next interpreter, when this one cannot be the kernel.

The image's own interpreter comes first, so that the packages of the image are there, and its own IPython
before the one in HOME. Trying is the test: another process to ask would cost as much as the kernel. The
interpreter may be an old one, so this file is written for any Python 3.
"""

import gc
import importlib
import os
import sys

OLDEST = (3, 10)
_JUPYTER = "jupyter:"


def main() -> None:
    """Never returns, except for a kernel that was asked to exit."""
    home, kind = sys.argv[1:3]
    if sys.path[:1] == [os.path.dirname(os.path.abspath(__file__))]:
        del sys.path[0]  # not there with PYTHONSAFEPATH
    given = take_out_pythonpath()
    sys.path.append(home)
    if kind.startswith(_JUPYTER):
        sys.path.append(os.path.join(os.path.dirname(home), "jupyter"))  # where Ship has a closure
    sys.path += given
    if sys.version_info < OLDEST:
        give_up("Python %s is too old" % sys.version.split()[0])  # noqa: UP031
    gc.disable()  # loaded modules are no garbage
    try:
        module = importlib.import_module("ship_kernel.serve" if kind == "python" else "ship_kernel.jupyter")
    except Exception as error:  # noqa: BLE001 - packages of the image that do not fit together raise what they like
        give_up("%s: %s" % (type(error).__name__, error))  # noqa: UP031
    else:
        sys.path[:] = [*given, *(path for path in sys.path if path not in given)]
        module.main(kind)


def take_out_pythonpath() -> "list[str]":
    """Take out and give the user's folders: the kernel looks there last, the user's code first."""
    named = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    named = [path for path in named if path != os.path.dirname(os.__file__)]
    sys.path[:] = [path for path in sys.path if path not in named]
    return named


def give_up(problem: str) -> None:
    """Try the next interpreter, or exit with the problem."""
    following = sys.argv[3:]
    if following:
        os.execv(following[0], [*following, os.path.abspath(__file__), *sys.argv[1:3]])  # noqa: S606
    sys.exit("no Python here can be a kernel: " + problem)


if __name__ == "__main__":
    main()
