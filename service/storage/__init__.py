"""Store durable and shared state in one SQL database: SQLite in a file, or PostgreSQL."""
