"""The `oci` driver runs sessions as containers of runc, without a daemon; `driver` has the steps in order."""
