"""The operator's web page: opens and why they landed where they did, dry runs, and the service's health."""
