"""Ports of sandboxes: listeners, the HTTP and WebSocket proxy behind `gate`, links, tunnels and events."""
