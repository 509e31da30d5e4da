"""The client of Ship: connections, WebSockets, and the answers of a Ship, checked and bounded.

A Ship may be hostile. A module here reads no row; the ship clients of the other folders build on it.
"""
