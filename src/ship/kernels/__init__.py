"""Kernels: processes that run cells of code, and the events of these cells."""
