"""The detach keys leave a terminal without ending its command."""

from bay.errors import InvalidArgument

DEFAULT_KEYS = "ctrl-p,ctrl-q"
_CTRL = {f"ctrl-{chr(code + 96)}": code for code in range(1, 27)} | {
    "ctrl-@": 0,
    "ctrl-[": 27,
    "ctrl-\\": 28,
    "ctrl-]": 29,
    "ctrl-^": 30,
    "ctrl-_": 31,
}


def parse_keys(text: str) -> bytes:
    """The bytes of keys: ``ctrl-p,ctrl-q``, ``ctrl-a,d``; empty for an empty text, which means none."""
    return bytes(_key(key.strip()) for key in text.split(",")) if text.strip() else b""


def _key(name: str) -> int:
    found = _CTRL.get(name.lower())
    if found is None and len(name) == 1 and name.isascii() and name.isprintable():
        found = ord(name)
    if found is None:
        raise InvalidArgument(
            f"--detach-keys takes keys separated by commas, such as {DEFAULT_KEYS} or ctrl-a,d; {name!r} is "
            "not a key"
        )
    return found


class DetachKeys:
    """Searches the typed bytes for the keys. A beginning of them is held back until it is clear."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """The bytes to send, and whether the keys were there."""
        data, self._held = self._held + typed, b""
        if not self._keys:
            return data, False
        before, found, _ = data.partition(self._keys)
        if found:
            return before, True
        held = self._beginning(data)
        self._held = data[len(data) - held :]
        return data[: len(data) - held], False

    def _beginning(self, data: bytes) -> int:
        """How many bytes at the end of `data` may be the beginning of the keys."""
        longest = min(len(self._keys) - 1, len(data))
        return next((n for n in range(longest, 0, -1) if data.endswith(self._keys[:n])), 0)
