"""TCP listeners of the sandbox, and tunnels to them."""
