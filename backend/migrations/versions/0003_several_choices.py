"""Labels of configurations in which several classes can be chosen."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step: every label there is so far is a plain name."""
    for table in ("annotations", "events"):
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.add_column(
                sa.Column(
                    "multiple",
                    sa.Boolean(),
                    server_default=sa.false(),
                    nullable=False,
                    comment="label is a JSON list",
                )
            )


def downgrade() -> None:
    """Take it back: labels that are sets are told again, as before, by the next comparison with Label Studio."""
    for table in ("annotations", "events"):
        op.execute(f"UPDATE {table} SET label = NULL WHERE multiple")  # noqa: S608 - two names of our own
        with op.batch_alter_table(table, schema=None) as batch_op:
            batch_op.drop_column("multiple")
