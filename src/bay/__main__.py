"""`python -m bay` is the command `bay`."""

import sys

from bay.cli.main import main

sys.exit(main())
