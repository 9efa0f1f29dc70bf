"""Conversations: keeping, finding, forking and carrying them; and the turns that runs take in them."""
