"""Model backends: one module per wire dialect."""
