"""The HTTP API: each handler decodes a request, calls one use case, and returns a Struct."""
