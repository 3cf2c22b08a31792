"""HTTP out: Dub's API, one method per endpoint."""
