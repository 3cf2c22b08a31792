"""IP matching: sync an app's clicks from Dub, and find the click that led to an install."""
