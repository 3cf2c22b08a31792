"""The use cases: resolve an open, send leads, erase an install, report queued opens to Dub."""
