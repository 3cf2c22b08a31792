"""The use cases: resolve an open, send leads, erase an install, replay what Dub missed."""
