"""The homes of runners, by which those are told from each other that can't share a database."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Those that are there say nothing of theirs, until they start again."""
    op.add_column("runners", sa.Column("home", sa.String(36), nullable=False, server_default=""))
