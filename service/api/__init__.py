"""HTTP in: a handler decodes, makes one call, and returns a Struct."""
