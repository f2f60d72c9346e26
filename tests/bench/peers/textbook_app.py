"""Textbook gateway: the simplest implementation, as a baseline.

One task per socket, each with its own XREAD BLOCK from its cursor. Served by `uvicorn` with its defaults.
TEXTBOOK_REDIS is the URL of the server. A viewer of stream NAME connects to `/NAME?after=ID`, or without `after`
starts at the beginning.
"""

from __future__ import annotations

import os
from typing import Any

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

# Each viewer blocks one connection, and a read may last longer than the default timeout of 5 seconds.
redis = Redis.from_url(os.environ["TEXTBOOK_REDIS"], max_connections=20_000, socket_timeout=None, decode_responses=True)


async def follow(websocket: WebSocket) -> None:
    """Send every entry of one stream to a viewer, one frame per entry."""
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
