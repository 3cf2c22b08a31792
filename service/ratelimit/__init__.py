"""How many requests a key, and an address, may make."""
