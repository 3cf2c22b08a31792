"""Context managers that open and close components in order."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager


@asynccontextmanager
async def closing(close: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Call ``close`` on exit, also after an exception."""
    try:
        yield
    finally:
        await close()


@asynccontextmanager
async def opened(
    open_: Callable[[], Awaitable[None]], close: Callable[[], Awaitable[None]]
) -> AsyncIterator[None]:
    """Call ``open_`` on entry and ``close`` on exit."""
    await open_()
    async with closing(close):
        yield
