"""Run the page until somebody ends it."""

from __future__ import annotations

import asyncio
import errno
import secrets
import signal
import socket
from urllib.parse import quote

from aiohttp import web

from partition_actor.arguments import check_flag, check_text, refuse
from partition_actor.errors import PartitionActorNotFound, PartitionActorUnavailable
from partition_actor.operate.page.access import Access, is_loopback
from partition_actor.operate.page.asking_process import AskingProcess
from partition_actor.operate.page.feed import Feed
from partition_actor.operate.page.server import make_app
from partition_actor.operate.page.source import Absent, Away, Source

TOKEN_LENGTH = 16
"""Characters of a token, at least."""


def run(
    address: str | None,
    namespace: str,
    name: str,
    host: str = "127.0.0.1",
    port: int = 8270,
    allow_changes: bool = False,
    token: str | None = None,
) -> None:
    """Serve the page about a partition actor until SIGINT or SIGTERM; prints where it is.

    This process need not be connected to Ray, and stays when Ray goes: a process of its own asks the partition actor.

    Args:
        address: of Ray, as ``ray.init`` takes it; None: that of ``RAY_ADDRESS`` or of this machine.
        namespace: of the partition actor.
        name: of the partition actor.
        host: where to listen. Beyond this machine's loopback address a token is required, and made if None is given.
        port: where to listen; 0: any that is free.
        allow_changes: whether members can be drained and forgotten.
        token: at least 16 characters that whoever looks must know.

    Raises:
        InvalidArgument: an argument has the wrong type or value, or the port is taken.
        PartitionActorNotFound: there is no such partition actor to begin with.
        PartitionActorUnavailable: there is no Ray, or the partition actor does not answer.
    """
    for argument, value in (("namespace", namespace), ("name", name), ("host", host)):
        check_text(argument, value)
    check_flag("allow_changes", allow_changes)
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < 65_536:
        refuse("port", port, "an int from 0 to 65535")
    if token is not None and (not isinstance(token, str) or len(token) < TOKEN_LENGTH):
        refuse("token", "…", f"a str of at least {TOKEN_LENGTH} characters")
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    asyncio.run(_run(AskingProcess(address, namespace, name), host, port, allow_changes, token))


async def _run(source: AskingProcess, host: str, port: int, allow_changes: bool, token: str | None) -> None:
    try:
        await _look_once(source)
        await serve(source, host, port, allow_changes, token)
    finally:
        await source.close()


async def _look_once(source: Source) -> None:
    try:
        await source.observe([], 0)
    except Absent as absent:
        raise PartitionActorNotFound(str(absent)) from None
    except Away as away:
        raise PartitionActorUnavailable(str(away)) from None


async def serve(source: Source, host: str, port: int, allow_changes: bool = False, token: str | None = None) -> None:
    """Serve the page from `source` until SIGINT or SIGTERM. Raises ``InvalidArgument`` if the port is taken."""
    listener = _listen(host, port)
    port = listener.getsockname()[1]
    access = Access(token, allow_changes, port)
    runner = web.AppRunner(make_app(source, access, Feed(source)), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        named = socket.gethostname() if host in ("0.0.0.0", "::") else host
        at = f"[{named}]" if ":" in named else named
        print(f"http://{at}:{port}/{'' if token is None else f'?token={quote(token)}'}", flush=True)
        print("members can be drained and forgotten" if allow_changes else "read-only", "· Ctrl-C ends it", flush=True)
        await _until_signalled()
    finally:
        await runner.cleanup()


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            refuse("port", port, f"one that is free on {host}: another program listens there; try --port {port + 1}")
        refuse("host", host, f"an address of this machine ({str(error.strerror or error).partition(' (while')[0]})")


async def _until_signalled() -> None:
    signalled = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signalled.set)
    await signalled.wait()
