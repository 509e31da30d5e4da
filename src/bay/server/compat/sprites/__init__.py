"""The API of Sprites: a sprite is a sandbox with a name.

Each module of routes is a group of its calls, and `wire` has how callers, errors and times look. No rule of a
sandbox belongs here.
"""
