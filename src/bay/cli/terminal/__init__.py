"""The local terminal: raw mode, the keys that detach, and a session with a terminal in a sandbox."""
