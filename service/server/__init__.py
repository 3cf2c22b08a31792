"""Run the ASGI apps under uvicorn, with limits for an open network."""
