"""Versions of Bay that there are not: directories of migrations, each with one more than the one before."""

import shutil
from pathlib import Path

from bay.store import versions

OWN = versions.newest_version()
"""The present Bay's."""

_ADDING = """
import sqlalchemy as sa
from alembic import op

revision = "{version}"
down_revision = "{before}"
BESIDE = {is_beside}


def upgrade() -> None:
    op.add_column("cargos", sa.Column("color_{version}", sa.Text(), nullable=False, server_default="blue"))
"""


class MadeUpVersions:
    """Directories below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._last = OWN
        self.of = {OWN: versions.MIGRATIONS}
        """The directory of each version."""

    def add(self, version: str, *, is_beside: bool) -> Path:
        """One more than those before. `is_beside`: its last migration says that older ones run beside it."""
        made = self._root / version
        shutil.copytree(self.of[self._last], made)
        text = _ADDING.format(version=version, before=self._last, is_beside=is_beside)
        (made / "versions" / f"{version}_made_up.py").write_text(text)
        self.of[version], self._last = made, version
        return made
