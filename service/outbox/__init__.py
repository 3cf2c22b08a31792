"""Deliver opens, leads and sales to Dub: stored first, then sent until Dub accepts or refuses them."""
