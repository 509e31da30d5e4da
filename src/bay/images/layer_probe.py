"""The trial of an unpacking, for `bay doctor`: an empty layer goes through the cage as those of images do."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import zstandard

from bay.drivers.oci import closure
from bay.drivers.oci.idrange import ID_RANGES, IdRanges
from bay.drivers.oci.userns import IDS
from bay.errors import DriverUnavailable
from bay.images.layer_cage import Cage, CageParts, UnpackOrder

_EMPTY = bytes(1024)
"""A tar without a member."""


def try_unpacker(closures: Path, scratch: Path, id_base: int) -> None:
    """Unpack an empty layer in a cage; `scratch` holds its files meanwhile, and Ship's interpreter where that
    is not in `closures` yet, which takes some seconds. Blocks. Raises OSError, ImportError,
    subprocess.SubprocessError or DriverUnavailable.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".bay-layer-") as directory:
        place = Path(directory)
        for made in ("stage", "holder"):
            (place / made).mkdir()
        (place / "blob").write_bytes(zstandard.compress(_EMPTY))
        ids = IdRanges(place / "ids", id_base + ID_RANGES * IDS, 1)  # above those of all others
        order = UnpackOrder(place / "blob", "zstd", None, place / "holder", len(_EMPTY), 0)
        built = closures if closure.is_built(closures) else place / "closures"
        cage = Cage(CageParts(place / "stage", built, ids), order, lambda _at: None)
        try:
            with ThreadPoolExecutor(
                1, "bay-probe-layer"
            ) as thread:  # one that goes into namespaces, and ends
                found = thread.submit(cage.run).result()
        finally:
            cage.release()
    if found.digest != f"sha256:{sha256(_EMPTY).hexdigest()}":
        raise DriverUnavailable("the unpacker of layers gives a wrong digest")
