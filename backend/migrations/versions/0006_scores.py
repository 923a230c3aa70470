"""What the newest version makes of the tasks without a label."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    op.create_table(
        "scores",
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False, comment="Version that scored; 0 is the cold start"),
        sa.Column("made_at", sa.Float(), nullable=False, comment="Unix seconds"),
        sa.Column("classes", sa.JSON(), nullable=False, comment="Those that the version knows"),
        sa.Column("pool", sa.LargeBinary(), nullable=False, comment="Arrays, in the order in which tasks are asked"),
        sa.Column("study", sa.Integer(), nullable=True, comment="Study that told the novelty; null: none yet"),
        sa.Column("novelty", sa.LargeBinary(), nullable=True, comment="Arrays: tasks by id, and how novel each is"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"]),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_scores")),
    )


def downgrade() -> None:
    """Take it back: the next label, or `tandem sync`, makes it again."""
    op.drop_table("scores")
