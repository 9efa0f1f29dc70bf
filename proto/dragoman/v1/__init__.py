"""Version 1 of the contract (generated from the protos beside this file)."""
