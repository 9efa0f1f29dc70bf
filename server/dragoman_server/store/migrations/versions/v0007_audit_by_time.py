"""Audit entries are found by their time, to be deleted when they are old."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Changes the tables."""
    op.create_index("ix_audit_entries_create_time", "audit_entries", ["create_time"])
