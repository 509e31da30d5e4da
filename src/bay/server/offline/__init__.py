"""Backup, restore, checks and leftovers of a data directory without its Bay; a server imports none of it."""
