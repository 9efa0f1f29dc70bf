"""Who may call: API keys and what they permit."""
