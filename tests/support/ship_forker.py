"""Forks a Ship for each order: a program for `forked_ship`, not a test."""

# isort: off
from ship import startup
from ship.app import main
# isort: on

import os
import signal

import forker

if __name__ == "__main__":
    startup.settle()
    signal.signal(
        signal.SIGHUP, signal.SIG_DFL
    )  # a test run under `nohup` ignores it; Ship's zygote undoes that too
    if forker.next_order() is not None:
        os.setsid()
        main()
