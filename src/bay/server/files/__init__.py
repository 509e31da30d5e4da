"""Files of a sandbox: read, write, list, search, watch and archive them through Ship.

Checkpoints and cargos, which are whole file systems, live in folders of their own.
"""
