"""The Model Context Protocol at `/mcp`: agents reach their sandboxes with nothing but an address and a key.

The tools are those of `bay.mcp`, which call Bay's own API with the caller's key: this folder only carries the
messages. No rule of a sandbox belongs here.
"""
