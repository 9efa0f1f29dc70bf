"""What runs used: a record of each, and sums by hour."""
