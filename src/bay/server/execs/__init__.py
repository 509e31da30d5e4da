"""Execs: commands in a sandbox, their output, attachments, screens, history and processes."""
