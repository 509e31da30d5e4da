"""Real sandboxes for hostile programs."""

from criu_program import criu_program
from image_roots import debian_image, image_store
from oci_bench import any_image, lent_zygote, oci, oci_debian, oci_root, workspaces

# Fixtures are found by their names here.
__all__ = [
    "any_image",
    "criu_program",
    "debian_image",
    "image_store",
    "lent_zygote",
    "oci",
    "oci_debian",
    "oci_root",
]
__all__ += ["workspaces"]
