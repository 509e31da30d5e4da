"""Checks of texts, for `make check`: prints each finding as FILE:LINE, and fails where there is one."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_INSTALLED = re.compile(
    r"\b(?:install|upgrade|add|npx|uvx|pipx run)\b[^;|&`]{0,60}?(?<![\w./-])bay-sandbox\b(?![-/\w])"
)
"""A command that would fetch Bay from a package index. No index has Bay: there its name is a stranger's."""
_TEXTS = ("*.md", "*.py", "*.ts", "*.tsx", "*.sh", "*.toml", "*.html", "*.service", "Makefile")
_ELSEWHERE = ("CHANGELOG.md", "changelog.d/")


def findings(path: str, text: str) -> Iterator[str]:
    """What is wrong with a file."""
    for found in _INSTALLED.finditer(text):
        line = text.count("\n", 0, found.end()) + 1
        yield (
            f"{path}:{line}: this installs bay-sandbox from an index, which does not have it; name the clone "
            "or the wheel of `make release`"
        )


def main() -> int:
    """Look at every text of the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *_TEXTS], stdout=subprocess.PIPE, text=True, check=True
    )
    paths = [one for one in listed.stdout.split("\0") if one and not one.startswith(_ELSEWHERE)]
    found = [one for path in paths for one in findings(path, Path(path).read_text(errors="replace"))]
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
