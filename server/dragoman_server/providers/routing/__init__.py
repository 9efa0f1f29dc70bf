"""Routing: which target answers a request, and what happens when it does not."""
