"""What a sandbox's network reaches: policies, and how this host's kernel is made to hold them."""
