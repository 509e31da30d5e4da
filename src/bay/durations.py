"""Parses durations as users write them: `90s`, `10m`, `1h30m`, `7d`."""

import re

PATTERN = r"^(?:\d{1,9}d)?(?:\d{1,9}h)?(?:\d{1,9}m)?(?:\d{1,9}(?:\.\d{1,6})?s)?$"
"""A text with at least one number and its unit, the largest unit first."""

_PART = re.compile(r"(\d+(?:\.\d+)?)([dhms])", re.ASCII)
_WHOLE = re.compile(PATTERN, re.ASCII)
_SECONDS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}


def parse(text: str) -> int | float | None:
    """The seconds that a text with units names; None for any other, a number without a unit too."""
    if not text or _WHOLE.fullmatch(text) is None:
        return None
    total = sum(_number(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    return int(total) if total == int(total) else total


def _number(digits: str) -> int | float:
    return float(digits) if "." in digits else int(digits)
