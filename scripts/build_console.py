"""Build the web console, which the server has at `/` and the wheel brings.

    python -m scripts.build_console

Vite makes the files of `console/`; they are packed here, as the server sends them: a browser takes them as
they are. The first page alone stays plain, since the server writes into each answer of it.
"""

import subprocess
import sys
from pathlib import Path

from scripts.packing import pack

ROOT = Path(__file__).parents[1]
CONSOLE = ROOT / "console"
BUILT = ROOT / "src/bay/server/web/console"
FIRST = "index.html"

FIRST_BYTES = 300_000
"""Most bytes, packed, of all that a browser loads before it shows the first page."""


class Unfit(Exception):
    """The console could not be built, or not as the server promises it."""


def main() -> None:
    """Build and pack. Raises Unfit."""
    made = subprocess.run(
        ["npx", "--no-install", "vite", "build", "--logLevel", "warn"], cwd=CONSOLE, check=False
    )
    if made.returncode:
        raise Unfit("vite could not build the console; see above")
    pack(path for path in BUILT.rglob("*") if path.is_file() and path.name != FIRST)
    size = sum(path.stat().st_size for path in loaded_first())
    if size > FIRST_BYTES:
        raise Unfit(f"the first page loads {size} bytes, and may load {FIRST_BYTES}; load a part later")


def loaded_first() -> list[Path]:
    """The packed files that the first page names."""
    page = (BUILT / FIRST).read_text()
    return [path for path in BUILT.rglob("*.gz") if path.name.removesuffix(".gz") in page]


if __name__ == "__main__":
    try:
        main()
    except Unfit as error:
        sys.exit(f"build_console: {error}")
