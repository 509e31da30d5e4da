"""The demonstration and its material."""
