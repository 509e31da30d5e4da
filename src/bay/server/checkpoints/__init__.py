"""Checkpoints: services write requests, the reconciler calls `storage_steps`. Forks live in `sandboxes`."""
