"""Make an image of Bay for the tests' Kubernetes from this machine's own files, as an archive.

    python -m scripts.kubernetes.server_image FOLDER

The image of users is that of deploy/Dockerfile.kubernetes, which needs package indexes, and tests have no
way to those. This one, `bay.test/bay-server:1`, has the same programs and libraries: the interpreter that
runs this, the libraries that requirements/kubernetes.txt pins but those of object stores, and Bay of this
tree, with the tools of busybox.
"""

import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from scripts.kubernetes.images import fill_box, write

_ROOT = Path(__file__).parents[2]
_PIN = re.compile(r"(?m)^([A-Za-z0-9._-]+)==")
_LEFT_OUT = {"boto3", "botocore", "s3transfer"}
_UNNEEDED = re.compile(
    r"opt/bay/lib/[^/]+/(test|idlelib|lib2to3|ensurepip|tkinter|turtledemo|config-[^/]+)(/|$)"
)
_LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x")
_PROGRAM = "#!/opt/bay/bin/python3\nimport sys\nfrom bay.cli.main import main\nsys.exit(main())\n"

Place = tuple[Path, str]


def main(folder: Path) -> None:
    """Write `bay-server.tar`. Raises OSError without busybox-static."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    interpreter = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    lib = f"opt/bay/lib/{stdlib.name}"
    with tempfile.TemporaryDirectory() as made:
        box, program = Path(made, "box"), Path(made, "bay")
        fill_box(box)
        (box / "data").mkdir()
        program.write_text(_PROGRAM)
        program.chmod(0o755)
        standard = [(path, f"{lib}/{path.name}") for path in stdlib.iterdir() if "-packages" not in path.name]
        # Beside the standard library: of Debian's Python the folder of others has another name.
        libraries = [(path, f"{lib}/{name}") for path, name in _libraries()]
        own = [(path, f"{lib}/{path.name}") for path in (_ROOT / "src").iterdir()]
        bay = [(interpreter, "opt/bay/bin/python3"), (program, "bin/bay"), *standard, *libraries, *own]
        shared = _shared([path for path, _ in bay], stdlib)
        config = {"User": "10001:10001", "Entrypoint": ["/bin/bay"], "Cmd": ["serve"], "WorkingDir": "/data"}
        write(folder, "bay-server", [[(box, "")], [*shared, *bay]], config, _is_needed)


def _is_needed(name: str) -> bool:
    return not _UNNEEDED.match(name)


def _libraries() -> Iterator[Place]:
    """The files of the libraries that the lock pins and this environment has, and their places."""
    lock = (_ROOT / "requirements/kubernetes.txt").read_text(encoding="utf-8")
    for name in set(_PIN.findall(lock)) - _LEFT_OUT:
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # of another system
            continue
        for file in found.files or ():
            path = Path(str(found.locate_file(file)))
            if ".." not in file.parts and path.exists():
                yield path, str(file)


def _shared(files: list[Path], stdlib: Path) -> Iterator[Place]:
    """The shared libraries outside of Python's own folders, and the loader, at their paths."""
    objects = [file for file in (*files, *stdlib.glob("lib-dynload/*")) if ".so" in file.name]
    command = ["ldd", str(files[0]), *map(str, objects)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout
    for found in sorted(set(_LIBRARY.findall(said))):
        if "-packages/" not in found:
            yield Path(found).resolve(), found.lstrip("/")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
