"""The reconciler: it starts, stops and removes sessions until the host agrees with the rows.

Only this folder and the checkpoint steps it calls act on the driver and the cargo backend. No request waits
inside it.
"""
