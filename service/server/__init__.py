"""Run the ASGI apps under uvicorn, with limits against hostile clients."""
