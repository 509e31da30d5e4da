"""Builds make templates of a Dockerfile or of steps: each step runs in a sandbox of the owner, and a snapshot
after it lets the next build of the same begin there.

The builder works through a plan of `bay.builds`; the maker of templates freezes what it leaves. Nothing here
decides what a Dockerfile means.
"""
