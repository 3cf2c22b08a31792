"""The two database engines, which differ only in placeholders, locking and connection handling."""
