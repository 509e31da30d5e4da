"""Kernels: processes that run code cell by cell and keep its variables.

Their history is written through `execs.history`.
"""
