"""The core: executes runs and serves the contract."""
