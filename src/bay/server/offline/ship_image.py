"""`bay admin ship-image`: the image that brings Ship into the pods of the driver `kubernetes`."""

import errno
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bay import __version__
from bay.drivers.oci import closure
from bay.errors import DriverUnavailable, StorageFull
from bay.images.export_process import ExportOrder, pack_image

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class ShipImage:
    """An archive that was written: the name in it, and the digest of its manifest."""

    ref: str
    digest: str
    file: Path


def write(file: Path, ref: str | None) -> ShipImage:
    """Write the image of this version of Ship, for this machine's architecture, as the tar of an OCI layout.
    Blocks; raises DriverUnavailable or StorageFull.
    """
    name = ref or f"bay-ship:{__version__}"
    config = {"os": "linux", "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine())}
    beside = file.with_name(f".{file.name}.new")
    try:
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".bay-ship-") as made:
            root = Path(made, "root")
            shutil.copytree(closure.build(Path(made, "closures")), root / "closure", copy_function=os.link)
            with beside.open("wb") as out:
                digest = pack_image(ExportOrder(name, {**config, "config": {}}, [str(root)]), out)
                out.flush()
                os.fsync(out.fileno())
            beside.replace(file)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"no room for the image at {file}; free some") from error
        raise DriverUnavailable(
            f"the image cannot be written to {file}: {error.strerror or error}"
        ) from error
    finally:
        beside.unlink(missing_ok=True)
    return ShipImage(name, digest, file)
