"""Packs an image as a tar of an OCI layout, in a process of its own.

    python -m bay.images.export_process < ORDER > TAR

The layers are packed anew from their trees, uncompressed: a whiteout of overlayfs becomes `.wh.NAME`, a mark
that hides what is below becomes `.wh..wh..opq`. A tar names its members and their sizes first, and here the
name is the digest: so each layer is packed twice, the first time for the digest alone. Nothing is written to
the disk, layers never change, and what is packed depends on the trees alone: the digests are the same each
time. The result is one line of JSON on stderr. Rejected: keeping the compressed blobs, which would double
the room that images take.
"""

import errno
import hashlib
import json
import os
import resource
import sqlite3
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bay.cargo.tar_pack import Packer, Writable, is_whiteout, shown
from bay.errors import BadRequest, BayError, DriverUnavailable, StorageFull
from tree_tar.headers import DIRECTORY, END, FILE, header, padding

_OCI = "application/vnd.oci.image"
_MEMORY_BYTES = 512 << 20
_MOST_ENTRIES = 2_000_000
_NICE = 10
_KEPT_XATTRS = ("user.", "security.capability", "system.posix_acl_access", "system.posix_acl_default")
_DROPPED_XATTRS = "user.overlay."
_OPAQUE = "trusted.overlay.opaque"
_MARK = ".wh."
_OPAQUE_MARK = f"{_MARK}{_MARK}.opq"


@dataclass(frozen=True, slots=True)
class ExportOrder:
    """An image to pack: its config in the form of OCI, without diff-ids, and its trees, the lowest first."""

    ref: str
    config: Mapping[str, Any]
    layers: Sequence[str]


class LayerPacker(Packer):
    """Packs the tree of a layer as a layer's tar has it."""

    def _begin_directory(self, here: str, directory: int) -> None:
        super()._begin_directory(here, directory)
        if _has_mark(directory):
            self._add_mark(here, _OPAQUE_MARK)

    def _is_tree(self, here: str, directory: int, entry: str, parts: tuple[str, ...]) -> bool:
        if entry.startswith(_MARK):
            raise BadRequest(f"{shown(f'{here}/{entry}')} has a name that removes a file in an archive")
        return super()._is_tree(here, directory, entry, parts)

    def _add_special(self, name: str, directory: int, entry: str, facts: os.stat_result) -> None:
        if is_whiteout(facts):
            return self._add_mark(name.removesuffix(f"/{entry}"), _MARK + entry)
        return super()._add_special(name, directory, entry, facts)

    def _xattrs(self, file: int | str) -> Iterable[tuple[str, bytes]]:
        """In an order that depends on nothing else."""
        by_name = {"follow_symlinks": False} if isinstance(file, str) else {}
        names = [name for name in sorted(os.listxattr(file, **by_name)) if _is_kept(name)]
        return [(name, os.getxattr(file, name, **by_name)) for name in names]

    def _add_mark(self, here: str, name: str) -> None:
        self._add(header(f"{here}/{name}", FILE))


class _Measure:
    """The digest and the number of the bytes that pass, on their way to `out`."""

    def __init__(self, out: Writable | None = None) -> None:
        self._out = out
        self._seen = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes, /) -> None:
        self._seen.update(data)
        self.size += len(data)
        if self._out is not None:
            self._out.write(data)

    @property
    def digest(self) -> str:
        return f"sha256:{self._seen.hexdigest()}"


def main() -> int:
    """Do the order; gives 0 when all went well."""
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        order = ExportOrder(**json.load(sys.stdin))
        _say({"digest": _packed(order, sys.stdout.buffer)})
    except BayError as error:
        _say({"error": error.code, "message": error.message})
        return 1
    return 0


def pack_image(order: ExportOrder, out: Writable) -> str:
    """Write the tar; gives the digest of its manifest. Blocks; raises BadRequest or OSError."""
    for name in ("blobs", "blobs/sha256"):
        out.write(header(name, DIRECTORY, mode=0o755))
    _add_file(out, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
    layers: list[_Measure] = []
    for tree in order.layers:
        layers.append(_measured(tree))
        if layers[-1].digest not in [one.digest for one in layers[:-1]]:
            _add_layer(out, tree, layers[-1])
    rootfs = {"type": "layers", "diff_ids": [one.digest for one in layers]}
    config = _add_blob(out, _json({**order.config, "rootfs": rootfs}))
    manifest = _add_blob(
        out,
        _json(
            {
                "schemaVersion": 2,
                "mediaType": f"{_OCI}.manifest.v1+json",
                "config": _descriptor(config, "config.v1+json"),
                "layers": [_descriptor(one, "layer.v1.tar") for one in layers],
            }
        ),
    )
    names = {"io.containerd.image.name": order.ref, "org.opencontainers.image.ref.name": order.ref}
    entry = {**_descriptor(manifest, "manifest.v1+json"), "annotations": names}
    _add_file(out, "index.json", _json({"schemaVersion": 2, "manifests": [entry]}))
    out.write(END)
    return manifest.digest


def _packed(order: ExportOrder, out: Any) -> str:
    """Whatever can go wrong is one of Bay's errors."""
    try:
        digest = pack_image(order, out)
        out.flush()
    except MemoryError as error:
        raise BadRequest("the image has a directory or a file that needs more memory than allowed") from error
    except sqlite3.Error as error:  # where links are remembered
        raise DriverUnavailable(f"no space for temporary files: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("no space is left for the export of an image; free some") from error
        raise DriverUnavailable(f"cannot export the image: {error.strerror or error}") from error
    return digest


def _measured(tree: str) -> _Measure:
    found = _Measure()
    _pack_layer(tree, found)
    return found


def _add_layer(out: Writable, tree: str, expected: _Measure) -> None:
    _begin(out, _name(expected), expected.size)
    again = _Measure(out)
    _pack_layer(tree, again)
    if (again.digest, again.size) != (expected.digest, expected.size):
        raise DriverUnavailable("a layer changed while it was exported; export the image again")
    out.write(padding(again.size))


def _pack_layer(tree: str, out: Writable) -> None:
    packer = LayerPacker(out, digested=False, strict=True, most_entries=_MOST_ENTRIES)
    packer.add_tree(".", Path(tree))
    packer.finish()


def _add_blob(out: Writable, content: bytes) -> _Measure:
    found = _Measure()
    found.write(content)
    _add_file(out, _name(found), content)
    return found


def _add_file(out: Writable, name: str, content: bytes) -> None:
    _begin(out, name, len(content))
    out.write(content + padding(len(content)))


def _begin(out: Writable, name: str, size: int) -> None:
    out.write(header(name, FILE, mode=0o644, size=size))


def _name(blob: _Measure) -> str:
    return f"blobs/{blob.digest.replace(':', '/')}"


def _descriptor(blob: _Measure, kind: str) -> dict[str, Any]:
    return {"mediaType": f"{_OCI}.{kind}", "digest": blob.digest, "size": blob.size}


def _json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _has_mark(directory: int) -> bool:
    try:
        return os.getxattr(directory, _OPAQUE) in (b"y", b"x")
    except OSError:
        return False


def _is_kept(name: str) -> bool:
    return name.startswith(_KEPT_XATTRS) and not name.startswith(_DROPPED_XATTRS)


def _say(words: Mapping[str, Any]) -> None:
    sys.stderr.write(json.dumps(words) + "\n")


if __name__ == "__main__":
    sys.exit(main())
