"""The closure: Ship and all it needs to run, in one read-only directory, for any image, even an empty one.
The unpacker of layers runs in it too (`bay.images.layer_cage`).

It is the interpreter that runs Bay with its standard library, the shared libraries that both are linked
against and those of zstandard, the loader, h11, Ship, its protocol and its reader of tar. Python files are
compiled and their sources left out: starting writes nothing, and opens half as many files. Beside them lies
`kernel_bundle`'s.
"""

import compileall
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from bay.drivers.oci import kernel_bundle
from bay.linux.renames import built_beside

_SHOWN_AT = "/.ship/kernel"
_UNNEEDED = (
    *("__pycache__", "dbm", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data"),
    *("site-packages", "sqlite3", "test", "tests", "tkinter", "turtledemo", "unittest", "venv", "wsgiref"),
)
_UNNEEDED_EXTENSIONS = re.compile(r"_?(test|xx|ctypes_test|tkinter|sqlite3|dbm|gdbm|curses|readline|nis)")
_PACKAGES = ("h11", "ship", "ship_protocol", "tree_tar")
_LINKED = "zstandard"
"""A package that the unpacker has beside the closure, and whose shared libraries must be in it."""
_LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x")


def build(closures: Path) -> Path:
    """The closure's directory below `closures`, rebuilt when the interpreter, Ship or IPython has changed.
    Safe against concurrent builds. Blocks (about 5 s when it has to be made); raises OSError, ImportError or
    subprocess.SubprocessError.
    """
    packages = [kernel_bundle.location(name) for name in _PACKAGES]
    target = closures / _fingerprint(packages)
    if not target.is_dir():
        with built_beside(target) as building:
            _fill(building, packages)
    return target


def is_built(closures: Path) -> bool:
    """Whether `build` has nothing to do. Raises OSError or ImportError."""
    return (closures / _fingerprint([kernel_bundle.location(name) for name in _PACKAGES])).is_dir()


def _interpreter() -> Path:
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def _fingerprint(packages: list[Path]) -> str:
    interpreter = _interpreter().stat()
    digest = hashlib.sha256(f"4 {sys.version} {interpreter.st_size} {interpreter.st_mtime_ns}".encode())
    digest.update(kernel_bundle.fingerprint().encode())
    for binary in _linked():
        digest.update(f"\0{binary} {binary.stat().st_size} {binary.stat().st_mtime_ns}".encode())
    for package in packages:
        for file in sorted(package.rglob("*.py")):
            digest.update(f"\0{package.name}/{file.relative_to(package)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _fill(closure: Path, packages: list[Path]) -> None:
    stdlib = Path(sysconfig.get_path("stdlib"))
    python = closure / "lib" / stdlib.name
    (closure / "bin").mkdir()
    shutil.copyfile(_interpreter(), closure / "bin/python3")
    shutil.copytree(stdlib, python, ignore=_ignored)
    for package in packages:
        shutil.copytree(package, python / package.name, ignore=_ignored)
    _replace_sources(python)
    kernel_bundle.fill(closure / "kernel", _SHOWN_AT)
    bridge = kernel_bundle.fill_bridge(closure / "jupyter")
    extensions = sorted((python / "lib-dynload").glob("*.so"))
    _copy_libraries(closure, [closure / "bin/python3", *extensions, *bridge, *_linked()])
    _open_to_everyone(closure)


def _linked() -> list[Path]:
    return sorted(kernel_bundle.location(_LINKED).glob("*.so"))


def _ignored(directory: str, names: list[str]) -> set[str]:
    if Path(directory).name == "lib-dynload":
        return {name for name in names if _UNNEEDED_EXTENSIONS.match(name)}
    return {name for name in names if name in _UNNEEDED or not _is_code(directory, name)}


def _is_code(directory: str, name: str) -> bool:
    return name.endswith((".py", ".so")) or os.path.isdir(os.path.join(directory, name))


def _replace_sources(python: Path) -> None:
    # `-OO` level: no docstrings to load; legacy places, so that they are found without a source beside them.
    compileall.compile_dir(python, quiet=2, legacy=True, optimize=2, stripdir=str(python), prependdir="/")
    for source in python.rglob("*.py"):
        if source.with_suffix(".pyc").exists():
            source.unlink()


def _copy_libraries(closure: Path, binaries: list[Path]) -> None:
    # Asked of the originals' copies: `ldd` resolves them where Bay runs, which is where the libraries are.
    command = ["ldd", *(str(binary) for binary in binaries)]
    listing = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    for library in sorted({Path(found) for found in _LIBRARY.findall(listing)}):
        shutil.copyfile(library, closure / "lib" / library.name)


def _open_to_everyone(closure: Path) -> None:
    closure.chmod(0o755)
    for path in closure.rglob("*"):
        program = path.is_dir() or path.parent.name == "bin" or ".so" in path.name
        path.chmod(0o755 if program else 0o644)
