"""The reasons why a layer is not unpacked, in words for its owner."""

INVALID, TOO_LARGE, FULL, FAILED = "invalid", "too_large", "full", "failed"
_LONGEST = 200


class Refused(Exception):
    """The layer is not unpacked. `kind` is one of the words above."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


def invalid(name: str, why: str) -> Refused:
    """The refusal of the entry `name`."""
    return Refused(INVALID, f"the layer has an entry {shown(name)}, which {why}")


def shown(name: str) -> str:
    """A name for people: of any bytes, and of any length, on one short line."""
    half = _LONGEST // 2
    return repr(name if len(name) <= _LONGEST else f"{name[:half]}…{name[-half:]}")
