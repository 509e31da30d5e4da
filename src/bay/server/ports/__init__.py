"""Ports of sandboxes: the list of listeners, the HTTP and WebSocket proxy, links, tunnels and events.

`gate` is an ASGI middleware before all routes. Network policies live in `networks`.
"""
