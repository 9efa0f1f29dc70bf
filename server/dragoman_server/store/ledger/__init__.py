"""The ledger: what accounts have, what is reserved, and every entry that made it so."""
