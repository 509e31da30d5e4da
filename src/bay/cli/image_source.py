"""Sources of `bay image import`: an archive, or an image in a store of this machine, saved by skopeo.

skopeo runs with the rights of the caller, who could run it by hand: Bay's server never reads such a store.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
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


def _save(source: str, archive: Path) -> None:
    program = shutil.which("skopeo")
    if program is None:
        raise InvalidArgument(
            f"{source} needs skopeo on this machine; install it, or save the image to a file and import that"
        )
    command = [program, "--insecure-policy", "copy", "--quiet", source, f"oci-archive:{archive}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise BayError(f"skopeo could not read {source}: {said[-1]}")
