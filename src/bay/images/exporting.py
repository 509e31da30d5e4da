"""Exports images as streams, each packed by an `export_process`."""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bay.cargo.export_import import packed_stream
from bay.images.config import ImageConfig
from bay.images.export_process import ExportOrder

_PROGRAM = "bay.images.export_process"


async def export_stream(ref: str, config: Mapping[str, Any], trees: Sequence[Path]) -> AsyncGenerator[bytes]:
    """A tar of an OCI layout, from the trees, the lowest first; closing the generator kills its process.
    `config` is that of a row. Raises BadRequest, StorageFull or DriverUnavailable: then the tar has no end.
    """
    order = ExportOrder(ref, ImageConfig.from_row(config).to_oci(), list(map(str, trees)))
    async with aclosing(packed_stream(_PROGRAM, [], json.dumps(asdict(order)).encode())) as chunks:
        async for chunk in chunks:
            yield chunk
