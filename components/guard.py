"""What a server on the loopback answers: its own pages and the programs of this machine, no page of anybody else's.

A page from elsewhere can make a browser ask the loopback. It is known by its origin, or, where it has its own name lead to
127.0.0.1 (DNS rebinding), by that name in the Host header.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

HOST = "127.0.0.1"

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


def own_names(port: int) -> list[str]:
    """What the server is called in its own addresses."""
    return [f"{name}:{port}" for name in (HOST, "localhost")]


def own_origins(port: int) -> list[str]:
    """The origins of its own pages."""
    return [f"http://{name}" for name in own_names(port)]


class Guard:
    """An ASGI application that answers for `application` only what was asked by its own names and origins."""

    def __init__(self, application: Application, port: int) -> None:
        self._application = application
        self._names = {name.encode() for name in own_names(port)}
        self._origins = {origin.encode() for origin in own_origins(port)}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Hand on or refuse."""
        status = self._refused(scope["headers"]) if scope["type"] in ("http", "websocket") else None
        if status is None:
            await self._application(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: the answer is 403
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": b"This server answers its own pages only.\n"})

    def _refused(self, headers: Iterable[tuple[bytes, bytes]]) -> int | None:
        found = list(headers)
        hosts = [value for name, value in found if name == b"host"]
        if len(hosts) != 1 or hosts[0].lower() not in self._names:
            return 421
        origins = [value for name, value in found if name == b"origin"]
        return None if all(origin in self._origins for origin in origins) else 403
