"""The changes that a build makes to the config of its image."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("templates", sa.Column("config", sa.JSON(none_as_null=True)))
