"""Which models can be asked for, and who serves them."""
