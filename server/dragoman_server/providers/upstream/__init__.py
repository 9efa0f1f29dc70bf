"""The HTTP/1.1 client that calls remote providers: callbacks instead of tasks, one socket write per request."""
