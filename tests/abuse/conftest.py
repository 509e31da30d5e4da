"""Real sandboxes for hostile programs."""

from oci_bench import lent_zygote, oci, oci_root, workspaces

__all__ = ["lent_zygote", "oci", "oci_root", "workspaces"]  # fixtures are found by their names here
