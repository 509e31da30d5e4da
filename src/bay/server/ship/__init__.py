"""The client of Ship, which may be hostile: checks and bounds its answers. Reads no row."""
