"""Records the terminal sessions of docs/casts: real commands, typed one by one, against a real Bay.

`python -m scripts.record_casts` has asciinema record each `NAME.txt` into `NAME.cast` (asciicast v2) and
draws it as `NAME.svg`; `python -m scripts.record_casts type NAME.txt` is the session that it records.
"""

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from examples.own_server import own_server
from rich.console import Console
from rich.text import Text

CASTS = Path(__file__).parents[1] / "docs" / "casts"
COLUMNS, ROWS = 100, 30
_FAILED = "this command failed:"
_KEY_S = 0.03
_READ_S = 1.0


def main() -> int:
    """Record all of them. Needs root and asciinema."""
    if shutil.which("asciinema") is None:
        print("record_casts: install asciinema first: apt-get install asciinema", file=sys.stderr)
        return 1
    with own_server("bay-casts-") as server:
        environment = {
            **os.environ,
            "BAY_URL": server.url,
            "BAY_API_KEY": server.api_key,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TERM": "xterm-256color",
        }
        for script in sorted(CASTS.glob("*.txt")):
            record(script, environment)
    return 0


def record(script: Path, environment: dict[str, str]) -> None:
    """The cast of one session, and its picture."""
    cast = script.with_suffix(".cast")
    typed = shlex.join([sys.executable, "-m", "scripts.record_casts", "type", str(script)])
    size = ["--cols", str(COLUMNS), "--rows", str(ROWS)]
    named = ["-q", "--overwrite", "-e", "TERM", "-t", f"Bay: {script.stem}"]
    command = ["asciinema", "rec", *named, *size, "-c", typed, str(cast)]
    subprocess.run(command, env=environment, check=True)
    if _FAILED in cast.read_text(encoding="utf-8"):  # asciinema has its own exit code
        raise SystemExit(f"record_casts: a command of {script} failed; see {cast}")
    script.with_suffix(".svg").write_text(picture(cast), encoding="utf-8")
    print(f"recorded {cast}")


def type_session(script: Path) -> int:
    """Type each command as a person would, and run it, until one fails."""
    for command in script.read_text(encoding="utf-8").splitlines():
        sys.stdout.write("\x1b[1;32m$\x1b[0m ")
        for key in command:
            sys.stdout.write(key)
            sys.stdout.flush()
            time.sleep(_KEY_S)
        print(flush=True)
        if subprocess.run(["bash", "-c", command], check=False).returncode != 0:
            print(_FAILED, command)
            return 1
        time.sleep(_READ_S)
    return 0


def picture(cast: Path) -> str:
    """All that the session printed, as SVG."""
    _, *events = (json.loads(line) for line in cast.read_text(encoding="utf-8").splitlines())
    printed = "".join(data for _, kind, data in events if kind == "o").replace("\r\n", "\n").rstrip("\n")
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(printed))
    # Its own fonts come from another host.
    return console.export_svg(title="bay", unique_id=cast.stem, code_format=_FORMAT)


_FORMAT = """<svg xmlns="http://www.w3.org/2000/svg" xml:space="preserve" viewBox="0 0 {width} {height}">
<style>
.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g></g>
</svg>
"""


if __name__ == "__main__":
    sys.exit(type_session(Path(sys.argv[2])) if sys.argv[1:2] == ["type"] else main())
