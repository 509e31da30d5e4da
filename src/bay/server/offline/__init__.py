"""Work on a data directory without a running Bay: backup, restore, checks, and the leftovers of killed runs.

A running server imports nothing from here.
"""
