"""Host names are unique in a Bay, names only to an owner: the first sandbox of a name gets its host name."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_FIRST = """
UPDATE sandboxes SET host = name WHERE deleted_at IS NULL AND length(name) <= 57 AND name NOT GLOB '[0-9]*-*'
AND seq IN (SELECT min(seq) FROM sandboxes WHERE deleted_at IS NULL GROUP BY name)
"""


def upgrade() -> None:
    op.add_column("sandboxes", sa.Column("host", sa.String(length=63), nullable=True))
    op.execute(_FIRST)
    op.create_index(
        "uq_sandboxes_host",
        "sandboxes",
        ["host"],
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
    )
