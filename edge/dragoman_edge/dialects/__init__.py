"""One package per client dialect, each a pure translator."""
