"""Bay: sandboxes for programs."""
