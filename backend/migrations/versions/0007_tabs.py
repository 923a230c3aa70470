"""What Tandem's tabs in Label Studio's Data Manager list."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Take the step."""
    op.add_column("projects", sa.Column("tabs", sa.JSON(), nullable=True, comment="What Tandem's tabs list"))


def downgrade() -> None:
    """Take it back: tabs are brought up to date anew."""
    op.drop_column("projects", "tabs")
