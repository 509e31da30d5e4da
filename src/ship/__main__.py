"""The entry point `python3 -m ship`: the first process of a sandbox."""

import os

from ship import startup

# Each has what the other does not need.
if "SHIP_LISTEN" in os.environ:
    from ship.pod import main
else:
    from ship.app import main

startup.settle()
main()
