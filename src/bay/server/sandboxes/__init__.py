"""Sandboxes as rows, and the pool of started ones; the reconciler starts and stops compute."""
