"""The checkpoints of each sandbox are numbered, from 1 on, in the order in which they were asked for."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("checkpoints", sa.Column("number", sa.Integer()))
    op.execute(
        "UPDATE checkpoints SET number = (SELECT count(*) FROM checkpoints AS earlier WHERE "
        "earlier.sandbox_id = checkpoints.sandbox_id AND NOT earlier.hidden AND earlier.seq <= checkpoints.seq) "
        "WHERE NOT hidden"
    )
    op.create_index("uq_checkpoints_sandbox_id_number", "checkpoints", ["sandbox_id", "number"], unique=True)
