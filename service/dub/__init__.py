"""The client of Dub's API, one method per endpoint."""
