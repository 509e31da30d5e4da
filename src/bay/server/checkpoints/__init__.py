"""Checkpoints: copies of the files of a sandbox, their policy, restore, export, and the collection of deleted ones.

The reconciler calls `storage_steps`; services only write requests. Forks live in `sandboxes`.
"""
