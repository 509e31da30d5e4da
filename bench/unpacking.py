"""`python -m bench.unpacking STORE BLOB CODEC DIFF_ID`: unpack one layer, in a process of its own so that the
memory of its children is that of the unpacker.
"""

import asyncio
import json
import resource
import sys
import time
from pathlib import Path

from bay.drivers.oci import closure
from bay.drivers.oci.idrange import IdRanges
from bay.images.layer_cage import CageParts
from bay.images.layer_store import LayerLimits, LayerStore

TYPES = "application/vnd.oci.image.layer.v1.tar+"


def main() -> None:
    root, blob, codec, diff_id = sys.argv[1:]
    place = Path(root).absolute()
    (place / "stage").mkdir(parents=True, exist_ok=True)
    parts = CageParts(place / "stage", place / "closures", IdRanges(place / "ids", 1_879_048_192, 4094))
    closure.build(parts.closures)
    layers = LayerStore(place, parts)
    layers.open()
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    asyncio.run(layers.add(Path(blob), TYPES + codec, diff_id, LayerLimits()))
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    asyncio.run(layers.remove(diff_id))
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = {"wall_s": wall, "processor_ms": processor * 1000, "memory_mib": after.ru_maxrss / 1024}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
