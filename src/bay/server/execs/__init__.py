"""Execs: commands that run in a sandbox, their output, attachments, screens, history and processes.

Code that starts, stops or wakes the sandbox itself lives in `sessions` and `reconciler`.
"""
