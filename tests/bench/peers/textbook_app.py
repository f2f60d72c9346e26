"""The textbook gateway: what most people would write, and the "before" picture of the benchmark.

One task a socket, each with an XREAD BLOCK of its own from its own cursor. Served by `uvicorn` with its defaults.
TEXTBOOK_REDIS is the address of the server; the viewer of stream NAME connects to `/NAME?after=ID`, and without `after`
begins at the beginning.
"""

from __future__ import annotations

import os
from typing import Any

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

# A viewer takes one connection for itself, and a read may last longer than the client's default timeout of 5 seconds.
redis = Redis.from_url(os.environ["TEXTBOOK_REDIS"], max_connections=20_000, socket_timeout=None, decode_responses=True)


async def follow(websocket: WebSocket) -> None:
    """Give one viewer every entry of one stream, a frame an entry."""
    await websocket.accept()
    name, cursor = websocket.path_params["name"], websocket.query_params.get("after", "0-0")
    try:
        while True:
            reply: Any = await redis.xread({name: cursor}, block=10_000)
            for _, entries in reply:
                for entry, fields in entries:
                    await websocket.send_text(fields["text"])
                    cursor = entry
    except WebSocketDisconnect:
        pass


app = Starlette(routes=[WebSocketRoute("/{name}", follow)])
