"""Processes of the sandbox: spawn, reap, signal and list them, with their terminals, pipes and users."""
