"""Network policies: the addresses and names a sandbox may reach, and how the host's kernel enforces them."""
