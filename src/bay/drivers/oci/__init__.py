"""The `oci` driver runs sessions as containers of runc on this host, without a daemon."""

from bay.drivers.oci.driver import OciDriver

__all__ = ["OciDriver"]
