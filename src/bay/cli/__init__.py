"""The command `bay`: a client of the public API, and the way to start `bay serve` and `bay doctor`.

`main` is the entry point, `app` the tree of commands, `commands/` what they do.
"""
