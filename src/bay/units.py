"""Units of bytes."""

MIB, GIB = 1 << 20, 1 << 30
