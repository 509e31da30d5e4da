"""Execs: commands started by the host, their input, their output by byte offset, and attachments."""
