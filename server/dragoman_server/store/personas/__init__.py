"""Where personas are kept."""
