"""How much each key, user and account may ask for."""
