"""Who may look at the page and who may change something: hosts, tokens, and the headers of every answer."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "partition_actor",
}

REFUSED = "Open the address that `partition-actor page` has printed: it ends in ?token=…\n"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), expected.encode())


@dataclass(frozen=True)
class Access:
    """What the page lets a request do."""

    token: str | None = None
    """Whoever looks must know it; None: whoever reaches this machine's loopback address may look."""
    allow_changes: bool = False
    port: int = 0
    """It is part of the cookie's name, because a browser sends a host's cookies to all of its ports."""
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    """A change must repeat it; only a page of the same origin can read it."""

    @property
    def _cookie(self) -> str:
        return f"partition_actor_page_{self.port}"

    @property
    def _cookie_value(self) -> str:
        return hashlib.sha256(f"partition_actor page {self.token}".encode()).hexdigest()

    def middleware(self) -> Middleware:
        """Refuse what may not be, and set the headers of all answers but streams, which set them by themselves."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                response = self._refusal(request) or await handler(request)
            except web.HTTPException as error:
                response = web.Response(status=error.status, text=f"{error.text or error.reason}\n")
                if "Allow" in error.headers:
                    response.headers["Allow"] = error.headers["Allow"]
            if not response.prepared:
                for name, value in HEADERS.items():
                    response.headers.setdefault(name, value)
            return response

        return guard

    def _refusal(self, request: web.Request) -> web.Response | None:
        if self.token is None:
            # A name that an attacker points at 127.0.0.1 would make his page one of the same origin.
            if not is_loopback(_host_of(request)):
                return web.Response(status=421, text="This page answers only to localhost and 127.0.0.1.\n")
        elif "token" in request.query:
            return self._first_visit(request) if _same(request.query["token"], self.token) else self._stranger()
        elif not self._is_known(request, self.token):
            return self._stranger()
        return self._refused_change(request) if request.method == "POST" else None

    def _first_visit(self, request: web.Request) -> web.Response:
        """Trade the token for a cookie, so that it does not stay in the address."""
        url = request.rel_url.without_query_params("token")
        # Relative, for a proxy that serves the page below a path of its own; and never another site.
        there = f"./{url.raw_name}{'?' + url.raw_query_string if url.raw_query_string else ''}"
        response = web.Response(status=303, headers={"Location": there})
        # Lax: with Strict, a link from a chat or a runbook would arrive without it.
        response.set_cookie(self._cookie, self._cookie_value, httponly=True, samesite="Lax", path="/")
        return response

    def _is_known(self, request: web.Request, token: str) -> bool:
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        bearer = scheme.lower() == "bearer" and _same(credentials.strip(), token)
        return bearer or _same(request.cookies.get(self._cookie, ""), self._cookie_value)

    def _stranger(self) -> web.Response:
        return web.Response(status=401, text=REFUSED, headers={"WWW-Authenticate": "Bearer"})

    def _refused_change(self, request: web.Request) -> web.Response | None:
        origin = request.headers.get("Origin", "")
        if not self.allow_changes:
            why = "This page is read-only: start it with --allow-changes to drain and forget members."
        elif not origin or _netloc(origin) != request.host.lower():
            why = f"A change must come from this page itself: its Origin must be that of {request.host}."
        elif request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            why = "A change must come from this page itself, not from another site."
        elif not _same(request.headers.get("X-CSRF-Token", ""), self.csrf):
            why = "This page was restarted: reload it, and try again."
        else:
            return None
        return web.json_response({"error": why}, status=403)


def _host_of(request: web.Request) -> str:
    try:
        return urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
    except ValueError:
        return ""


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
