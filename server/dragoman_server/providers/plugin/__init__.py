"""Model backends that others implement, in any language: `dragoman.plugin.v1.ModelBackend` over gRPC."""
