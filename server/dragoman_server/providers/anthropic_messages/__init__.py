"""The wire dialect of the Anthropic Messages API."""
