"""The command `bay`, a client of the public API: `main` enters, `app` is the tree, `commands/` the work."""
