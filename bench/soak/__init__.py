"""The soak: mixed traffic on a Bay of its own for half an hour, with crashes, and a look at what grows
meanwhile.
"""
