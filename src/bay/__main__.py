"""The entry point `python -m bay`, which is the command `bay`."""

import sys

from bay.cli.main import main

sys.exit(main())
