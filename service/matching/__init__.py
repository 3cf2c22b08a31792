"""IP matching: sync the clicks of an app from Dub, and find the one that brought an install."""
