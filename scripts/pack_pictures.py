"""Pack screenshots for docs/images.

    pack_pictures.py FROM TO

Makes of each PNG in `FROM` a WebP in `TO` that has the same pixels and a third of the bytes. The other WebPs
of `TO` are removed. Needs Pillow, which the distribution's python3-matplotlib brings.
"""

import sys
from pathlib import Path

from PIL import Image  # pyright: ignore


def pack(source: Path, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    for old in to.glob("*.webp"):
        old.unlink()
    for taken in sorted(source.glob("*.png")):
        with Image.open(taken) as picture:  # pyright: ignore
            picture.convert("RGB").save(to / f"{taken.stem}.webp", lossless=True, method=6)  # pyright: ignore


if __name__ == "__main__":
    pack(Path(sys.argv[1]), Path(sys.argv[2]))
