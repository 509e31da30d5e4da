"""The commands of `bay`, one module for each group of commands.

A command parses its options, calls the SDK and prints. Parts that several commands share are one folder up.
"""
