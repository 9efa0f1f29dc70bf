"""Calls to servers that a caller names: only those that the configuration allows, and never a private address."""
