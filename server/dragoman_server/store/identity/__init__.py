"""Accounts, users, keys, logins and the audit log: records, in SQL and in memory."""
