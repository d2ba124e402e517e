"""The models of jobs, by which runners choose them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Take those that there are for jobs of no model in particular."""
    op.add_column("jobs", sa.Column("model", sa.Text(), nullable=False, server_default=""))
