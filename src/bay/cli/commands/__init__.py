"""The commands of `bay`, one module for each group of commands.

A command parses its options, calls the SDK and prints. What several commands share lives one folder up.
"""
