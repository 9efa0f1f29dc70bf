"""The Dragoman contract: protocol messages, services and the client side of its streams."""
