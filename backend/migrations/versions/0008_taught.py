"""Who taught which picture from the page Try."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    op.create_table(
        "taught",
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("annotation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("task_id", sa.BigInteger(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False, comment="User name that was given with the secret"),
        sa.Column("taught_at", sa.Float(), nullable=False, comment="Unix seconds"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"]),
        sa.PrimaryKeyConstraint("project_id", "annotation_id", name=op.f("pk_taught")),
    )


def downgrade() -> None:
    """Take it back."""
    op.drop_table("taught")
