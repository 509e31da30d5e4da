"""The broker adds headers that hold secrets to requests of sandboxes, outside of them: a process for each.

`process` is the program, which imports nothing of what starts it; `supervisor` starts it and answers it.
"""
