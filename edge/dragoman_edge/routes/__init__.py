"""What the edge answers, one module per surface."""
