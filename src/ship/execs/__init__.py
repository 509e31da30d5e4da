"""Execs: commands started by the host, with their input, their output by byte offset, and attachments."""
