"""The door for agents: Bay's tools and files by the Model Context Protocol.

A client of Bay like any other: it uses the SDK's public names alone. `stdio` serves one client of this
process; `bay.server.compat.mcp` serves many at `/mcp`.
"""
