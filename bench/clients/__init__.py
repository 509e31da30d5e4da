"""The same acts through each client, as programs for the environments of those clients; see `bench.compat`.

A program imports its client alone, and not Bay. It prints a JSON object of samples in milliseconds.
"""
