"""Real sandboxes for hostile programs."""

from oci_bench import oci, oci_root, workspaces

__all__ = ["oci", "oci_root", "workspaces"]  # fixtures are found by their names here
