"""Open and close parts in order."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager


@asynccontextmanager
async def closing(close: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Close a part at the end, whatever happens."""
    try:
        yield
    finally:
        await close()


@asynccontextmanager
async def opened(
    open_: Callable[[], Awaitable[None]], close: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    """Open a part, and close it at the end."""
    await open_()
    async with closing(close):
        yield
