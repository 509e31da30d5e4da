"""Extended attributes in pax records, `SCHILY.xattr.NAME`, as star, GNU tar and Go's library write them."""

from collections.abc import Iterator, Mapping
from urllib.parse import quote, unquote_to_bytes

from tree_tar.reader import BadArchive, Records

_PREFIX = "SCHILY.xattr."
_PLAIN = "".join(chr(c) for c in range(33, 127) if chr(c) not in "%=")


def to_records(xattrs: Mapping[str, bytes]) -> dict[str, str]:
    """The pax records of the attributes, whatever bytes are in their names."""
    return {
        _PREFIX + quote(name, safe=_PLAIN, errors="surrogateescape"): value.decode("utf-8", "surrogateescape")
        for name, value in xattrs.items()
    }


def of_records(records: Records) -> Iterator[tuple[str, bytes]]:
    """The attributes that pax records have. Raises BadArchive for a name that no file can have."""
    prefix = _PREFIX.encode()
    for key, value in records.items():
        if key.startswith(prefix):
            name = unquote_to_bytes(key.removeprefix(prefix)).decode("utf-8", "surrogateescape")
            if "\0" in name:
                raise BadArchive("a header is damaged: the name of an attribute has a NUL")
            yield name, value
