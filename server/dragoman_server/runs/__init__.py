"""The run engine: event log, folding, callers and watchers, disconnect policy."""
