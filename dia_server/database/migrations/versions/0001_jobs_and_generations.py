"""Jobs, their runners, and the log of clips."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "jobs",
        sa.Column("number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("voice", sa.String(64)),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("blobs", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.String(64)),
        sa.Column("request_hash", sa.String(64)),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double()),
        sa.Column("completed_at", sa.Double()),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.Double()),
        sa.Column("runner", sa.String(100)),
        sa.Column("file", sa.String(100)),
        sa.Column("result", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.PrimaryKeyConstraint("number", name="pk_jobs"),
        sa.UniqueConstraint("id", name="uq_jobs_id"),
        sa.UniqueConstraint("idempotency_key", name="uq_jobs_idempotency_key"),
    )
    op.create_index("ix_jobs_completed_at", "jobs", ["completed_at"])
    op.create_index("ix_jobs_kind_number", "jobs", ["kind", "number"])
    op.create_index("ix_jobs_kind_status_number", "jobs", ["kind", "status", "number"])
    op.create_index("ix_jobs_status_number", "jobs", ["status", "number"])
    op.create_table(
        "runners",
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("machine", sa.String(64), nullable=False),
        sa.Column("workers", sa.Integer(), nullable=False),
        sa.Column("busy", sa.Integer(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_runners"),
    )
    op.create_table(
        "generations",
        sa.Column("number", NUMBER, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("processed_text", sa.Text(), nullable=False),
        sa.Column("voice", sa.String(64), nullable=False),
        sa.Column("audio_prompt", sa.String(64)),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("file", sa.String(200)),
        sa.Column("file_size", sa.BigInteger()),
        sa.Column("blobs", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_generations"),
    )
    op.create_index("ix_generations_created_at", "generations", ["created_at"])
    op.create_index("ix_generations_id", "generations", ["id"])
