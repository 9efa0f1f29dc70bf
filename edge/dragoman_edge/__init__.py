"""The REST edge: translates client dialects to the contract and back."""
