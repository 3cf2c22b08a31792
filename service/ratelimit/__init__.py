"""Rate limits per API key and per IP address."""
