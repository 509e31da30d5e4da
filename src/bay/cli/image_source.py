"""Sources of `bay image import`: an archive, or an image in a store of this machine, saved by skopeo. And the
target of `bay image push`: a registry, to which skopeo brings an exported archive.

skopeo runs with the rights of the caller, who could run it by hand: Bay's server never reads such a store.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bay.errors import BayError, InvalidArgument

_STORES = ("oci", "docker-daemon", "containers-storage")


@contextmanager
def archive_of(source: str) -> Generator[Path | BinaryIO]:
    """The archive to send. Raises InvalidArgument without skopeo, and BayError with its own words."""
    kind, colon, _ = source.partition(":")
    if source == "-":
        yield sys.stdin.buffer
    elif not colon or kind not in _STORES:
        yield Path(source)
    else:
        with tempfile.TemporaryDirectory(prefix="bay-image-") as directory:
            archive = Path(directory) / "image.tar"
            _save(source, archive)
            yield archive


@contextmanager
def pushing(target: str, *, insecure: bool) -> Generator[Path]:
    """A file for an archive, which skopeo puts into the registry afterwards. Raises the same, and before
    anything is fetched where it cannot be done.
    """
    program = _skopeo("a push needs skopeo on this machine; install it, or export the image to a file")
    if "@" in target:
        raise InvalidArgument(f"{target} names a digest, which the image decides; give a tag")
    with tempfile.TemporaryDirectory(prefix="bay-image-") as directory:
        archive = Path(directory) / "image.tar"
        yield archive
        options = ["--dest-tls-verify=false"] if insecure else []
        _run(program, [*options, f"oci-archive:{archive}", f"docker://{target}"], f"push to {target}")


def _save(source: str, archive: Path) -> None:
    program = _skopeo(
        f"{source} needs skopeo on this machine; install it, or save the image to a file and import that"
    )
    _run(program, [source, f"oci-archive:{archive}"], f"read {source}")


def _skopeo(otherwise: str) -> str:
    program = shutil.which("skopeo")
    if program is None:
        raise InvalidArgument(otherwise)
    return program


def _run(program: str, arguments: Sequence[str], what: str) -> None:
    command = [program, "--insecure-policy", "copy", "--quiet", *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise BayError(f"skopeo could not {what}: {said[-1]}")
