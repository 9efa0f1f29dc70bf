"""The gRPC servicers: one module per service, thin."""
