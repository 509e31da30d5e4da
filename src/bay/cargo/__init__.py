"""Cargo backends keep workspaces on the host."""
