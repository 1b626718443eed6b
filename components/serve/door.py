"""The way to llama.cpp's server: it knows no Host header from another, and does what a foreign page asks although it does not let the
page read the answer. So it listens where nobody looks, asks for a key that only this process has, and this hands on to it.
"""

from __future__ import annotations

from components.guard import Application, Message, Receive, Send

# What concerns one connection and not the request (RFC 9110, 7.6.1), and what is ours to say.
_OF_THE_CONNECTION = {
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
_OURS = {b"host", b"authorization", b"content-length"}


def door(address: str, key: str) -> Application:
    """An ASGI application that hands every request on to the server at `address`, with `key`; answers stream."""
    import httpx
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, StreamingResponse

    # No patience of its own: a long answer of a slow machine is no failure. No proxy of the user's on the loopback.
    client = httpx.AsyncClient(timeout=None, trust_env=False, limits=httpx.Limits(max_connections=None))
    base = httpx.URL(address)

    async def hand_on(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        path = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        headers = [pair for pair in request.headers.raw if pair[0] not in _OF_THE_CONNECTION | _OURS]
        onward = client.build_request(
            request.method,
            base.copy_with(raw_path=path),
            headers=[*headers, (b"authorization", f"Bearer {key}".encode())],
            content=await request.body(),
        )
        try:
            answer = await client.send(onward, stream=True)
        except httpx.TransportError as error:
            await PlainTextResponse(f"llama.cpp does not answer ({error}).\n", 502)(scope, receive, send)
            return
        try:
            response = StreamingResponse(answer.aiter_raw(), answer.status_code)
            response.raw_headers = [
                (name.lower(), value) for name, value in answer.headers.raw if name.lower() not in _OF_THE_CONNECTION
            ]
            await response(scope, receive, send)
        finally:
            await answer.aclose()

    return hand_on
