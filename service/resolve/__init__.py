"""The decision: pure, with no HTTP, no storage engine and no clock of its own."""
