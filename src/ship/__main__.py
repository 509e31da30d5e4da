"""The entry point `python3 -m ship`: the first process of a sandbox."""

from ship import startup
from ship.app import main

startup.settle()
main()
