"""Credits: what things cost, what is reserved for work, and what is charged for it."""
