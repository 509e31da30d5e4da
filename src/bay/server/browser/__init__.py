"""The browser of a sandbox: its commands, one at a time, their traces, and the replay of skills. Commands run
on the path of all execs; payloads of traces are kept by `skills`.
"""
