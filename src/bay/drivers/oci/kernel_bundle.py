"""The kernel bundle: our own small package, IPython, and IPython's dependencies.

All of it is Python without compiled parts, for the image's interpreter as well as the closure's. Sources are
kept: tracebacks show them, and an interpreter without byte code here compiles them in memory. The bridge to
other kernels has compiled parts: it lies in a folder of its own, for the closure's interpreter only.
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

HOST_PYTHON = Path("/usr/bin/python3")  # of the image `host`

_PACKAGES = (
    *("IPython", "asttokens", "executing", "ipython_pygments_lexers", "matplotlib_inline", "pexpect"),
    *("ptyprocess", "pure_eval", "pygments", "ship_kernel", "stack_data", "traitlets", "typing_extensions"),
)
# matplotlib finds its backend by the entry points of the distribution, and others ask for IPython's version.
_DISTRIBUTIONS = ("ipython", "matplotlib-inline", "traitlets")
_METADATA = ("METADATA", "entry_points.txt")
_BRIDGE = (
    *("dateutil", "jupyter_client", "jupyter_core", "platformdirs", "six", "tornado", "traitlets"),
    *("typing_extensions", "zmq"),
)
_BRIDGE_LIBRARIES = "pyzmq.libs"  # beside zmq, where its wheel has them
_UNNEEDED = shutil.ignore_patterns(
    "__pycache__", "tests", "test", "*.pyi", "*.dist-info", "py.typed", "*.a", "*.h"
)
# Hardly ever used, and compiled in memory then: highlighting of languages but Python, and terminal code.
_NOT_COMPILED = (
    r"/pygments/(lexers/(?!__init__|_mapping|python|special)|formatters/(?!__init__|_mapping|terminal|html)|styles/)"
    r"|/IPython/(terminal|sphinxext|external)/"
)
_COMPILE_S = 120


def fingerprint() -> str:
    """Changes when the bundle would."""
    digest = hashlib.sha256()
    for name, version in sorted(_versions()):
        digest.update(f"\0{name} {version}".encode())
    for source in sorted(location("ship_kernel").rglob("*.[pj][ys]")):
        digest.update(f"\0{source.name}\0".encode() + source.read_bytes())
    if HOST_PYTHON.exists():
        info = HOST_PYTHON.stat()
        digest.update(f"\0{info.st_size} {info.st_mtime_ns}".encode())
    return digest.hexdigest()


def fill(target: Path, shown_at: str) -> None:
    """Put the bundle into `target`, which will be found at `shown_at` in the sandbox.
    Blocks (about 2 s). Raises OSError, ImportError or subprocess.SubprocessError.
    """
    target.mkdir()
    for name in _PACKAGES:
        _copy(location(name), target)
    for name in _DISTRIBUTIONS:
        _copy_metadata(name, target)
    _compile(target, shown_at)


def fill_bridge(target: Path) -> list[Path]:
    """Copy the bridge to other kernels, if jupyter_client is installed, into `target`."""
    if find_spec("jupyter_client") is None:
        return []
    target.mkdir()
    for name in _BRIDGE:
        if find_spec(name) is not None:
            _copy(location(name), target)
    _copy_metadata("jupyter-client", target)  # it finds its own way of starting kernels by an entry point
    libraries = location("zmq").parent / _BRIDGE_LIBRARIES
    if libraries.is_dir():
        shutil.copytree(libraries, target / _BRIDGE_LIBRARIES)
    return sorted(target.rglob("*.so*"))


def _versions() -> Iterator[tuple[str, str]]:
    for package in ("ipython", "jupyter_client", "pygments", "pyzmq", "stack_data", "tornado", "traitlets"):
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue


def location(name: str) -> Path:
    """The directory of a package, or the file of a module. Raises ImportError."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ImportError(f"the package {name} is not installed beside Bay")
    origin = Path(spec.origin)
    return origin.parent if spec.submodule_search_locations else origin


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target / source.name, ignore=_UNNEEDED)
    else:
        shutil.copyfile(source, target / source.name)


def _copy_metadata(name: str, target: Path) -> None:
    distribution = metadata.distribution(name)
    for file in distribution.files or ():
        if file.parent.name.endswith(".dist-info") and file.name in _METADATA:
            (target / file.parent.name).mkdir(exist_ok=True)
            shutil.copyfile(str(distribution.locate_file(file)), target / file.parent.name / file.name)


def _compile(target: Path, shown_at: str) -> None:
    # Never compared with the source: the folder is read-only. Where this fails the kernel compiles in memory.
    command = ["-m", "compileall", "-q", "-x", _NOT_COMPILED, "--invalidation-mode", "unchecked-hash"]
    command += ["-s", str(target), "-p", shown_at, str(target)]
    null = subprocess.DEVNULL
    running = [
        subprocess.Popen([str(python), "-I", *command], stdin=null, stdout=null, stderr=null)
        for python in (Path(sys.executable), HOST_PYTHON)
        if python.exists()
    ]
    for process in running:
        try:
            process.wait(_COMPILE_S)
        finally:
            process.kill()
