"""Who let which version serve, and when; and pictures found by their content."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    op.create_table(
        "pins",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column(
            "version", sa.Integer(), nullable=True, comment="Version that serves from here on; null: the newest again"
        ),
        sa.Column(
            "who",
            sa.Text(),
            nullable=True,
            comment="Name of the person; null: Tandem itself, or nobody was asked for a name",
        ),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("pinned_at", sa.Float(), nullable=False, comment="Unix seconds"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"]),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pins")),
    )
    op.create_index("ix_pins_project", "pins", ["project_id", "id"], unique=False)
    op.create_index("ix_images_content_hash", "images", ["project_id", "content_hash"], unique=False)


def downgrade() -> None:
    """Take it back: a version that is pinned stays so."""
    op.drop_index("ix_images_content_hash", table_name="images")
    op.drop_index("ix_pins_project", table_name="pins")
    op.drop_table("pins")
