"""Images on this host: references, registries, OCI layouts and layers. Here is nothing of owners, rows,
requests or sandboxes: the server decides whose image it is and when it goes.
"""
