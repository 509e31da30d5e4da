"""Formats times for the wire."""

import time


def rfc3339(seconds: float) -> str:
    """`seconds` since the epoch as RFC 3339 in UTC, microseconds and a final Z."""
    micros = round(seconds * 1_000_000)
    whole, fraction = divmod(micros, 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{fraction:06d}Z"
