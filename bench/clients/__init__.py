"""The same acts through each client, as programs for the environments of those clients; see `bench.compat`.

A program imports its client alone, and not Bay. It reads the names of acts, one a line, and answers each with
the milliseconds that the act took: a JSON list of wall time and its own processor time.
"""
