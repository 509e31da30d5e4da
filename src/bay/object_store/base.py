"""The contract of an object store: small calls, each whole or not at all.

    put     Write an object of at most LARGEST bytes. With `only_new` an object that is there stays.
    get     Read an object whole.
    folders Names below a prefix up to the next `/`, in order.
    keys    All keys below a prefix.
    delete  Remove objects; those that are absent are no error.

Every call raises ObjectStoreUnavailable when the store cannot be reached, is too slow or fails, after
retries of its own; and ObjectStoreRefused when the bucket, the region or the credentials are wrong. Bay makes
the keys of ids, digests and numbers, and never of a caller's words.
"""

from collections.abc import Collection
from typing import Protocol

LARGEST = 64 << 20
"""Bytes of one object that Bay writes or reads, at most: a call has it in memory."""


class ObjectMissing(Exception):
    """There is no object of that key."""


class ObjectStore(Protocol):
    """A bucket, or a part of one."""

    @property
    def place(self) -> str:
        """Its URL, for messages to the operator."""
        ...

    async def put(self, key: str, data: bytes, *, only_new: bool = False) -> bool:
        """Write an object; False when `only_new` and there is one. A store may not know `only_new`, and then
        replaces it.
        """
        ...

    async def get(self, key: str, most: int = LARGEST) -> bytes:
        """The content of an object; of one with more than `most` bytes, `most` and one more. Raises
        ObjectMissing.
        """
        ...

    async def folders(self, prefix: str, *, after: str, limit: int) -> list[str]:
        """Up to `limit` names right below `prefix` that come after `after`, in order."""
        ...

    async def keys(self, prefix: str) -> dict[str, int]:
        """The sizes of all objects below `prefix`, by key."""
        ...

    async def delete(self, keys: Collection[str]) -> None:
        """Remove the objects; idempotent."""
        ...
