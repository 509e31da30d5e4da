"""Sandboxes: create, list, update, fork and delete them, and the pool of started ones.

A service here writes rows; the reconciler starts and stops compute.
"""
