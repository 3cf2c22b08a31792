"""Checks of an installation, each with a fix: what ``firstopen doctor`` prints."""
