"""Studies of the labels in force, what predictions turned out to be, and the short fields of tasks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    op.create_table(
        "outcomes",
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("annotation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("task_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "version", sa.Integer(), nullable=False, comment="Version that predicted, before it learned the label"
        ),
        sa.Column(
            "position", sa.BigInteger(), nullable=False, comment="Ledger position at which the label was learned"
        ),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("predicted", sa.Text(), nullable=False),
        sa.Column("probability", sa.Float(), nullable=False, comment="Of the label"),
        sa.Column("confidence", sa.Float(), nullable=False, comment="Probability of the class predicted"),
        sa.Column(
            "covered",
            sa.Boolean(),
            nullable=True,
            comment="Whether the prediction set held the label; null: there was no set",
        ),
        sa.Column("told_at", sa.Float(), nullable=False, comment="Unix seconds"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"]),
        sa.PrimaryKeyConstraint("project_id", "annotation_id", name=op.f("pk_outcomes")),
    )
    op.create_index("ix_outcomes_position", "outcomes", ["project_id", "position"], unique=False)
    op.create_table(
        "studies",
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False, comment="Ledger position studied"),
        sa.Column("encoder_id", sa.String(length=160), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False, comment="Unix seconds"),
        sa.Column("seconds", sa.Float(), nullable=False, comment="How long it took"),
        sa.Column(
            "calibration",
            sa.JSON(),
            nullable=True,
            comment="What the head is served with; null: nothing to go by yet",
        ),
        sa.Column(
            "novelty",
            sa.LargeBinary(),
            nullable=True,
            comment="What tells novel images; null: nothing to go by, or pruned",
        ),
        sa.Column("reliability", sa.JSON(), nullable=False, comment="How much each person's label counts"),
        sa.Column("findings", sa.JSON(), nullable=True, comment="What people read of it; null: a newer study stands"),
        sa.Column("trust", sa.Float(), nullable=False, comment="How far unlabelled images are believed, from 0 to 1"),
        sa.Column("pool", sa.LargeBinary(), nullable=True, comment="What unlabelled images teach; null: nothing"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"]),
        sa.PrimaryKeyConstraint("project_id", "number", name=op.f("pk_studies")),
    )
    with op.batch_alter_table("tasks") as tasks:
        tasks.add_column(
            sa.Column(
                "fields",
                sa.JSON(),
                nullable=True,
                comment="Its short data fields, such as a camera or a site; null: not told yet",
            )
        )
    with op.batch_alter_table("versions") as versions:
        versions.add_column(
            sa.Column("study", sa.Integer(), nullable=True, comment="Number of the study it was made with; null: none")
        )


def downgrade() -> None:
    """Take it back."""
    with op.batch_alter_table("versions") as versions:
        versions.drop_column("study")
    with op.batch_alter_table("tasks") as tasks:
        tasks.drop_column("fields")
    op.drop_table("studies")
    op.drop_index("ix_outcomes_position", table_name="outcomes")
    op.drop_table("outcomes")
