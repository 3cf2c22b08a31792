"""The Dub-compatible API, for Dub's SDKs."""
