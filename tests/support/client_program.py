"""Run a program of a client, and end its process after its work, without the interpreter's own end.

In that end pyqwest, the HTTP library of E2B's clients, aborts some processes of Pythons before 3.14:
also that of a program whose only server is Python's http.server.
"""

import os
import runpy
import sys

del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")  # an exception ends the process here, as it should
sys.stdout.flush()
sys.stderr.flush()
os._exit(0)
