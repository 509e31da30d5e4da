"""`python3 -m ship`: the first process of a sandbox."""

from ship import lean
from ship.app import main

lean.settle()
main()
