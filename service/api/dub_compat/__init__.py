"""Dub's own wire, for Dub's own SDKs."""
