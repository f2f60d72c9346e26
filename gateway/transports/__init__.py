"""The ways that frames reach a client: WebSocket, server-sent events, HTTP, static files."""
