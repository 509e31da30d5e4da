"""Kernels: processes that run code cell by cell. `cells` makes rows of the history, which `execs` reads."""
