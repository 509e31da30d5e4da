"""Where workspaces live on the host."""
