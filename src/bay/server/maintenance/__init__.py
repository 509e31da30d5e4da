"""Maintenance of a running Bay: retention, collection, health and admin; a stopped one's is in `offline`."""
