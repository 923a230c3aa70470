"""What the newest version makes of the tasks without a label, and what reviewers decided."""

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
    op.create_table(
        "reviews",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.BigInteger(), nullable=False),
        sa.Column("annotation_id", sa.BigInteger(), nullable=False),
        sa.Column("before", sa.JSON(), nullable=False, comment="Classes that the annotation named"),
        sa.Column("after", sa.JSON(), nullable=False, comment="Classes it should name; the same: it was confirmed"),
        sa.Column("result", sa.JSON(), nullable=True, comment="Its whole result before; null: it was confirmed"),
        sa.Column("who", sa.Text(), nullable=False, comment="Name of the person"),
        sa.Column("reviewed_at", sa.Float(), nullable=False, comment="Unix seconds"),
        sa.Column("undone_at", sa.Float(), nullable=True, comment="Unix seconds; null: it stands"),
        sa.Column("undone_by", sa.Text(), nullable=True, comment="Name of the person"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"]),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reviews")),
    )
    op.create_index("ix_reviews_project", "reviews", ["project_id", "reviewed_at"], unique=False)


def downgrade() -> None:
    """Take it back: the scores come again with the next label; what reviewers confirmed is asked again."""
    op.drop_index("ix_reviews_project", table_name="reviews")
    op.drop_table("reviews")
    op.drop_table("scores")
