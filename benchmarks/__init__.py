"""Repeatable measurements of the server, with a mock upstream, a load generator and a yardstick of their own."""
