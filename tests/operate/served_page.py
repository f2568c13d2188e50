"""The page's server in a thread, on a source that the test plays."""

import asyncio
import contextlib
import socket
import threading

from aiohttp import web

from partition_actor.operate.page.access import Access
from partition_actor.operate.page.feed import Feed
from partition_actor.operate.page.server import make_app

PERIOD = 0.05
"""Seconds between two calls, so that tests do not wait for a second."""


class ServedPage:
    def __init__(self, source, period=PERIOD, port=0, **access):
        self.source = source
        self.feed = Feed(source, period)
        self._port, self._access, self._made = port, access, threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self):
        listener = socket.create_server(("127.0.0.1", self._port))
        self.port = listener.getsockname()[1]
        self.access = Access(port=self.port, **self._access)
        self._runner = runner = web.AppRunner(make_app(self.source, self.access, self.feed), shutdown_timeout=0.5)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self._made.set()
        await self._ended.wait()
        await runner.cleanup()
        if hasattr(self.source, "close"):
            await self.source.close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def call(self, function):
        """Call it on the server's loop and return its result."""

        async def called():
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(10)

    def unsent(self):
        """Bytes that wait for browsers to read them."""
        connections = self._runner.server.connections
        return self.call(lambda: [it.transport.get_write_buffer_size() for it in connections if it.transport])

    def __enter__(self):
        self._thread.start()
        assert self._made.wait(10)
        return self

    def __exit__(self, *exception):
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)
