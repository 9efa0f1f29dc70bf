"""The tables. A change here needs a migration beside it; a test compares the two.

Times are microseconds since the Unix epoch, UTC, as integers: both databases order and compare them alike.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

from dragoman.v1.account_service_pb2 import KeyGrants, RateLimits
from dragoman_server.store.columns import Proto

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

accounts = Table(
    "accounts",
    metadata,
    Column("id", String, primary_key=True),
    Column("create_time", BigInteger, nullable=False),
    Column("name", String, nullable=False, server_default=text("''")),
    Column("plan", String, nullable=False, server_default=text("''")),
    Column("plan_start_time", BigInteger),  # the months of the plan are counted from here
    Column("disabled", Boolean, nullable=False, server_default=false()),
    Column("limits", Proto(RateLimits)),
    Column("welcome_due", Boolean, nullable=False, server_default=false()),  # what new accounts get is still to come
    Index("ix_accounts_create_time", "create_time", "id"),  # the order of pages
)

users = Table(
    "users",
    metadata,
    Column("id", String, primary_key=True),
    Column("account_id", String, ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    Column("email", String, unique=True),  # in lower case; null for subjects of an identity provider
    Column("password_hash", String),
    Column("subject", String),
    Column("name", String, nullable=False),
    Column("role", SmallInteger, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    UniqueConstraint("account_id", "subject"),
    Index("ix_users_account_id", "account_id", "create_time", "id"),  # the order of pages
)

logins = Table(
    "logins",
    metadata,
    Column("id", String, primary_key=True),
    Column("account_id", String, ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    Column("user_id", String, ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    Column("token_hash", LargeBinary, nullable=False),  # of the refresh token that is good
    Column("create_time", BigInteger, nullable=False),
    Column("expire_time", BigInteger, nullable=False),
    Index("ix_logins_user_id", "user_id"),
    Index("ix_logins_expire_time", "expire_time"),
)

secrets = Table(
    "secrets",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

audit_entries = Table(
    "audit_entries",
    metadata,
    Column("id", String, primary_key=True),
    Column("account_id", String, nullable=False),  # outlives its account
    Column("create_time", BigInteger, nullable=False),
    Column("actor", String, nullable=False),
    Column("action", String, nullable=False),
    Column("target", String, nullable=False),
    Column("details", Text, nullable=False),
    Index("ix_audit_entries_account_id", "account_id", "id"),
    Index("ix_audit_entries_create_time", "create_time"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("account_id", String, ForeignKey("accounts.id"), nullable=False),
    Column("name", String, nullable=False),
    Column("prefix", String, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False, unique=True),
    Column("role", SmallInteger, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("expire_time", BigInteger),
    Column("revoke_time", BigInteger),
    Column("disabled", Boolean, nullable=False, server_default=false()),
    Column("user_id", String),
    Column("grants", Proto(KeyGrants)),
    Index("ix_api_keys_account_id", "account_id", "create_time", "id"),  # the order of pages
)

balances = Table(
    "balances",
    metadata,
    Column("account_id", String, ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True),
    Column("currency", String, primary_key=True),
    Column("available_micros", BigInteger, nullable=False),
    Column("held_micros", BigInteger, nullable=False),
    Column("quota_micros", BigInteger, nullable=False),  # what is left of the plan's grants
    sqlite_with_rowid=False,
)

ledger_entries = Table(
    "ledger_entries",
    metadata,
    Column("account_id", String, ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True),
    Column("id", String, primary_key=True),
    Column("currency", String, nullable=False),
    Column("kind", SmallInteger, nullable=False),  # dragoman.v1.LedgerEntry.Kind
    Column("amount_micros", BigInteger, nullable=False),
    Column("run_id", String, nullable=False),
    Column("step_id", String, nullable=False),
    Column("request_key", String, nullable=False),  # what makes a second entry of the same act impossible
    Column("create_time", BigInteger, nullable=False),
    Column("note", String, nullable=False),
    UniqueConstraint("account_id", "run_id", "step_id", "request_key"),
    sqlite_with_rowid=False,
)

holds = (
    Table(  # few rows, which live as long as a request: whoever sweeps reads all of them, and an index would cost more
        "holds",
        metadata,
        Column("run_id", String, primary_key=True),
        Column("step_id", String, primary_key=True),
        Column("account_id", String, ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
        Column("currency", String, nullable=False),
        Column("amount_micros", BigInteger, nullable=False),
        Column("owner_id", String, nullable=False),  # the process that runs it
        Column("durable", Boolean, nullable=False),
        Column("create_time", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
)

owners = Table(
    "owners",
    metadata,
    Column("id", String, primary_key=True),
    Column("start_time", BigInteger, nullable=False),
    Column("seen_time", BigInteger, nullable=False),
)

usage_records = Table(
    "usage_records",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("account_id", String, ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    Column("user_id", String, nullable=False),
    Column("key_id", String, nullable=False),
    Column("create_time", BigInteger, nullable=False),
    Column("operation", String, nullable=False),
    Column("model", String, nullable=False),
    Column("provider", String, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("failure_reason", String, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("currency", String, nullable=False),
    Column("charged_micros", BigInteger, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Column("first_content_ms", BigInteger, nullable=False),
    Index("ix_usage_records_account_id", "account_id", "create_time", "run_id"),
    Index("ix_usage_records_create_time", "create_time"),
)

usage_hours = Table(
    "usage_hours",
    metadata,
    Column("account_id", String, ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True),
    Column("hour", BigInteger, primary_key=True),  # its beginning
    Column("user_id", String, primary_key=True),
    Column("key_id", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("provider", String, primary_key=True),
    Column("operation", String, primary_key=True),
    Column("currency", String, primary_key=True),
    Column("runs", BigInteger, nullable=False),
    Column("failed_runs", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("charged_micros", BigInteger, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Index("ix_usage_hours_hour", "hour"),
)

conversations = Table(
    "conversations",
    metadata,
    Column("id", String, primary_key=True),
    Column("account_id", String, ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    Column("user_id", String, nullable=False),
    Column("short_id", String, nullable=False),
    Column("tree_id", String, nullable=False),  # of the conversation that the tree began with
    Column("head_message_id", String),
    Column("message_count", Integer, nullable=False),
    Column("title", String, nullable=False),
    Column("words", Text, nullable=False),  # its title, for searches
    Column("pinned", Boolean, nullable=False),
    Column("source", String, nullable=False),
    Column("persona", String, nullable=False),
    Column("labels", LargeBinary),  # dragoman.v1.Conversation with nothing but labels
    Column("forked_from_id", String, nullable=False),
    Column("forked_at_message_id", String, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("request_key", String),
    Column("request_hash", LargeBinary),  # of the request that made it
    Column("create_time", BigInteger, nullable=False),
    Column("update_time", BigInteger, nullable=False),
    Column("delete_time", BigInteger),
    Column("byte_count", BigInteger, nullable=False, server_default=text("0")),
    UniqueConstraint("account_id", "user_id", "short_id", name="uq_conversations_short_id"),
    UniqueConstraint("account_id", "request_key", name="uq_conversations_request_key"),
    Index("ix_conversations_account_id", "account_id", "user_id", "update_time", "id"),  # the order of pages
    Index("ix_conversations_tree_id", "tree_id"),
    Index(
        "ix_conversations_delete_time",
        "delete_time",
        sqlite_where=text("delete_time IS NOT NULL"),
        postgresql_where=text("delete_time IS NOT NULL"),
    ),
)

messages = Table(
    "messages",
    metadata,
    Column("id", String, primary_key=True),
    Column("account_id", String, ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    Column("tree_id", String, nullable=False),
    Column("parent_id", String),
    Column("depth", Integer, nullable=False),  # how many precede it
    Column("body", LargeBinary, nullable=False),  # dragoman.v1.Message
    Column("words", Text, nullable=False),  # its text, for searches
    Column("state", SmallInteger, nullable=False),  # dragoman.v1.StoredMessage.State
    Column("run_id", String, nullable=False),
    Column("model", String, nullable=False),
    Column("details", Text, nullable=False),
    Column("client_id", String),
    Column("request_key", String),
    Column("create_time", BigInteger, nullable=False),
    Index("ix_messages_tree_id", "tree_id", "depth"),
    Index("ix_messages_account_id", "account_id", "tree_id"),
    Index(
        "ix_messages_request_key",
        "account_id",
        "request_key",
        sqlite_where=text("request_key IS NOT NULL"),
        postgresql_where=text("request_key IS NOT NULL"),
    ),
)

personas = Table(
    "personas",
    metadata,
    Column("account_id", String, ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String, primary_key=True),
    Column("body", LargeBinary, nullable=False),  # dragoman.v1.Persona
    Column("version", BigInteger, nullable=False),
    Column("update_time", BigInteger, nullable=False),
)
