"""Checkpoints: copies of a sandbox's files, their policy, restore, export, and garbage collection.

The reconciler calls `storage_steps`; services only write requests. Forks live in `sandboxes`.
"""
