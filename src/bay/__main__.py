"""`python -m bay` is the command `bay`."""

import sys

from bay.cli import main

sys.exit(main())
