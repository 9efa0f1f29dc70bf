"""Version 1 of the plugin contract (generated from the protos beside this file)."""
