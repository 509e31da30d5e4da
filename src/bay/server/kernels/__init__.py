"""Kernels: processes that run code cell by cell and keep its variables.

`cells` makes the rows of the history; `execs.history` reads them.
"""
