"""Small asyncio helpers."""
