"""What the page answers: its files, the same data as JSON, a stream of states, and the two changes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any

from aiohttp import web

from partition_actor.arguments import check_text
from partition_actor.errors import InvalidArgument
from partition_actor.operate.page.access import HEADERS, Access
from partition_actor.operate.page.feed import Feed
from partition_actor.operate.page.picture import RingPicture
from partition_actor.operate.page.source import Away, Refused, Source

TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
SLOW = 30.0
"""Seconds after which a browser that reads nothing is given up; it comes back by itself."""
MAX_KEY = 65_536
"""Characters of a key that is looked up."""


def make_app(source: Source, access: Access, feed: Feed) -> web.Application:
    """The page's web application."""
    return _Page(source, access, feed).app()


class _Page:
    def __init__(self, source: Source, access: Access, feed: Feed) -> None:
        self._source, self._access, self._feed = source, access, feed
        self._encoded: dict[tuple[str | None, str, str | None], bytes] = {}
        """The latest state as each stream sends it, once for all browsers that show the same."""
        self._encoded_version = -1
        static = resources.files("partition_actor.operate.page").joinpath("static")
        self._files = {
            file.name: (file.read_bytes(), TYPES[f".{file.name.rpartition('.')[2]}"])
            for file in static.iterdir()
            if f".{file.name.rpartition('.')[2]}" in TYPES
        }

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._access.middleware()], client_max_size=65_536)
        app.add_routes(
            [
                web.get("/", self._groups),
                web.get("/group", self._group),
                web.get("/fleet", self._fleet),
                web.get("/owner", self._owner),
                web.get("/live", self._live),
                web.get("/session", self._session),
                web.get("/static/{name}", self._static),
                web.post("/drain", self._change(self._source.drain)),
                web.post("/forget", self._change(self._source.forget)),
            ]
        )
        app.on_shutdown.append(self._end)
        return app

    # -- pages and data -----------------------------------------------------------------------------------------

    async def _static(self, request: web.Request) -> web.Response:
        return self._file(request.match_info["name"])

    def _file(self, name: str) -> web.Response:
        if name not in self._files:
            raise web.HTTPNotFound(text=f"There is no file {name!r}.")
        body, kind = self._files[name]
        return web.Response(body=body, content_type=kind, charset="utf-8", headers={"Cache-Control": "no-cache"})

    async def _session(self, request: web.Request) -> web.Response:
        return _json({"allow_changes": self._access.allow_changes, "csrf": self._access.csrf})

    async def _groups(self, request: web.Request) -> web.StreamResponse:
        if not _wants_json(request):
            return self._file("groups.html")
        return await self._as_json(None, request.query.get("find", ""))

    async def _group(self, request: web.Request) -> web.StreamResponse:
        name = _named(request)
        return await self._as_json(name) if _wants_json(request) else self._file("group.html")

    async def _fleet(self, request: web.Request) -> web.StreamResponse:
        name = _named(request)
        if not _wants_json(request):
            return self._file("fleet.html")
        with self._feed.look():
            await self._feed.first_state()
            state = self._feed.state(fleet=name)
        if state["connection"]["state"] != "live":
            return _json(state, 503)
        return _json(state, 404 if state["fleet"] is None else 200)

    async def _as_json(self, group: str | None, find: str = "") -> web.Response:
        with self._feed.look(group):
            await self._feed.first_state(group)
            state = self._feed.state(group, find) | {"events": self._feed.history.first(group)}
        if state["connection"]["state"] != "live":
            return _json(state, 503)
        return _json(state, 404 if group is not None and state["group"] is None else 200)

    async def _owner(self, request: web.Request) -> web.Response:
        group, key = _named(request), request.query.get("key", "")
        if len(key) > MAX_KEY:
            raise web.HTTPBadRequest(text=f"key: expected at most {MAX_KEY} characters, not {len(key)}")
        with self._feed.look(group):
            if self._feed.ring(group) is None:
                await self._feed.first_state(group)
            ring = self._feed.ring(group)
        if ring is None and self._feed.connection.state != "live":
            return _json({"error": self._feed.connection.why}, 503)
        if ring is None:
            return _json({"error": f"There is no group {group!r}."}, 404)
        return _json(ring.key(key))

    # -- the stream of states -----------------------------------------------------------------------------------

    async def _live(self, request: web.Request) -> web.StreamResponse:
        group = _named(request, "group") if "group" in request.query else None
        fleet = _named(request, "fleet") if "fleet" in request.query else None
        find = request.query.get("find", "")
        response = web.StreamResponse(
            headers={**HEADERS, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        )
        try:
            await response.prepare(request)
            await _send(response, b"retry: 1000\n\n")
            await self._send_states(response, group, find, fleet)
        except ConnectionError:
            pass  # the browser has gone
        except asyncio.TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        return response

    async def _send_states(self, response: web.StreamResponse, group: str | None, find: str, fleet: str | None) -> None:
        """Send each state, but only the latest when the browser is slow: nothing waits for it but its own stream."""
        feed = self._feed
        drawn: RingPicture | None = None
        arrived: int | None = None
        async with contextlib.aclosing(feed.states(group)) as states:
            async for version in states:
                await _send(response, self._state(version, group, find, fleet))
                if fleet is not None:
                    continue
                ring = None if group is None else feed.ring(group)
                if ring is not None and ring is not drawn:
                    drawn = ring
                    await _send(response, _message("ring", ring.drawing))
                events = None if arrived is None else feed.history.arrived_since(arrived, group)
                if events is None:
                    await _send(response, _message("log", feed.history.first(group)))
                elif events:
                    await _send(response, _message("events", events))
                arrived = feed.history.arrived

    def _state(self, version: int, group: str | None, find: str, fleet: str | None) -> bytes:
        if version != self._encoded_version:
            self._encoded_version = version
            self._encoded.clear()
        key = group, find, fleet
        if key not in self._encoded:
            self._encoded[key] = _message("state", self._feed.state(group, find, fleet))
        return self._encoded[key]

    async def _end(self, app: web.Application) -> None:
        await self._feed.stop()

    # -- changes ------------------------------------------------------------------------------------------------

    def _change(
        self, change: Callable[[str, str], Awaitable[None]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(request: web.Request) -> web.Response:
            try:
                body = await request.json()
                group, member = body["group"], body["member"]
                if not isinstance(group, str) or not isinstance(member, str):
                    raise TypeError
            except (ValueError, TypeError, KeyError):
                return _json({"error": 'The body must be JSON like {"group": "…", "member": "…"}.'}, 400)
            try:
                await change(group, member)
            except Refused as refused:
                return _json({"error": str(refused)}, 409)
            except Away as away:
                return _json({"error": str(away)}, 503)
            return _json({})

        return handler


def _json(value: Any, status: int = 200) -> web.Response:
    return web.json_response(value, status=status)


def _message(name: str, value: Any) -> bytes:
    # JSON has no line break, and what is not ASCII is escaped, so no text of a member can end the message.
    return f"event: {name}\ndata: {json.dumps(value)}\n\n".encode()


async def _send(response: web.StreamResponse, message: bytes) -> None:
    await asyncio.wait_for(response.write(message), SLOW)


def _named(request: web.Request, parameter: str = "name") -> str:
    try:
        return check_text(parameter, request.query.get(parameter, ""))
    except InvalidArgument as error:  # the partition actor would refuse it, together with what others ask for
        raise web.HTTPBadRequest(text=f"{error}") from None


def _wants_json(request: web.Request) -> bool:
    """Whether the first kind that is accepted, of those that there are, is JSON."""
    for part in request.headers.get("Accept", "").split(","):
        kind = part.split(";")[0].strip().lower()
        if kind in ("text/html", "application/xhtml+xml"):
            return False
        if kind == "application/json":
            return True
    return False
