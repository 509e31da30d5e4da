"""The `oci` driver runs sessions as containers of runc on this host, without a daemon.

`driver` has the steps in order; the modules beside it have one chore each.
"""
