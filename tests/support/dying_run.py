"""A `bay run` that is to be killed: a program for `test_remains`, not a test.

It says when its sandbox runs.
"""

import os
import sys
import tempfile
from pathlib import Path

import bay
from bay.server import embedded

if __name__ == "__main__":
    tempfile.tempdir = sys.argv[1]
    with (
        embedded.start(driver="fake", run_dir=Path(sys.argv[1]) / "run") as (url, key),
        bay.Client(url, key) as client,
    ):
        client.sandboxes.create(wait=20)
        sys.stdout.write("runs\n")
        sys.stdout.flush()
        os.read(0, 1)
