"""Netlink beside the service's event loop.

``AsyncIPRoute`` needs asyncio's own loop: uvloop opens no netlink sockets, and the synchronous ``IPRoute``
refuses to work inside a running loop. So it has a thread with a loop of its own; that thread stays in the
network namespace of the one that started it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class NetlinkThread:
    """One ``AsyncIPRoute``, used from another loop. ``await start()`` before the first :meth:`call`."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._opened: Future[Any] = Future()
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="streamspec-netlink")

    async def start(self) -> None:
        """Open the socket. Raises what keeps it from being opened (ImportError, OSError)."""
        self._thread.start()
        try:
            await asyncio.wrap_future(self._opened)
        except BaseException:
            self._thread.join()
            raise

    async def call(self, work: Callable[[Any], Awaitable[Result]]) -> Result:
        """The result of ``work(ipr)``, run there."""
        assert self._loop is not None, "start first"

        async def run() -> Result:
            return await work(self._opened.result())

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), self._loop))

    async def close(self) -> None:
        """End the thread. Safe to call twice."""
        loop, self._loop = self._loop, None
        if loop is not None and self._stop is not None:
            loop.call_soon_threadsafe(self._stop.set)
            await asyncio.wrap_future(self._ended)
            self._thread.join()

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(self._serve())
        except BaseException as error:
            if not self._opened.done():
                self._opened.set_exception(error)
        finally:
            self._ended.set_result(None)

    async def _serve(self) -> None:
        from pyroute2 import AsyncIPRoute

        async with AsyncIPRoute() as ipr:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            self._opened.set_result(ipr)
            await self._stop.wait()
