"""The size of conversations, short ids by user, and what new accounts are still to get."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_FILL = """
UPDATE conversations SET byte_count = (
    WITH RECURSIVE links (id, parent_id, size) AS (
        SELECT m.id, m.parent_id, length(m.body) + length(m.details)
        FROM messages AS m WHERE m.id = conversations.head_message_id
        UNION ALL
        SELECT m.id, m.parent_id, length(m.body) + length(m.details)
        FROM messages AS m JOIN links ON m.id = links.parent_id
    )
    SELECT coalesce(sum(size), 0) FROM links
) WHERE head_message_id IS NOT NULL
"""


def upgrade() -> None:
    """Changes the tables."""
    op.add_column("accounts", sa.Column("welcome_due", sa.Boolean(), server_default=sa.false(), nullable=False))
    with op.batch_alter_table("conversations") as table:
        table.add_column(sa.Column("byte_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
        table.drop_constraint("uq_conversations_short_id", type_="unique")
        table.create_unique_constraint("uq_conversations_short_id", ["account_id", "user_id", "short_id"])
    op.execute(_FILL)
