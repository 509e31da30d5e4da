"""The API of E2B: the control plane below `/e2b`, and each sandbox's own planes behind the entrance.

Each module of routes is a group of its calls, and `wire` has how callers and errors look. No rule of a
sandbox belongs here.
"""
