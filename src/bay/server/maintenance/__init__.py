"""Maintenance of a running Bay: retention, garbage collection on request, health and admin routes.

Work on the data directory of a stopped Bay lives in `offline`.
"""
