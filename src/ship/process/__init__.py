"""Processes of the sandbox: spawn, reap, signal and list them, their terminals and pipes, users and system calls."""
