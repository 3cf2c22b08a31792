"""Build the service's components from the settings."""
