"""Answers of Bay for clients that talk to a scripted transport."""

from typing import Any

SANDBOX: dict[str, Any] = {
    "id": f"sandbox-{'0' * 24}",
    "name": "box",
    "status": "ready",
    "compute": "running",
    "profile": "p",
    "image": "host",
    "isolation": "container",
    "cargo_id": "ws-1",
    "capabilities": [],
    "labels": {},
    "created_at": "2030-01-01T00:00:00Z",
    "expires_at": None,
    "idle_timeout": None,
    "idle_expires_at": None,
}
"""A sandbox that never ran."""
