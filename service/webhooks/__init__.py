"""Send webhooks to the backends of apps."""
