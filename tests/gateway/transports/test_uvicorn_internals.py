"""Undocumented parts of uvicorn: an upgrade that changes one fails here, see `gateway.transports.uvicorn_protocol`."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets import http11

from gateway.process import server
from gateway.transports import http_protocol, uvicorn_protocol
from gateway.transports.uvicorn_protocol import ATTRIBUTES, OVERRIDDEN, PRIVATE

if TYPE_CHECKING:
    from types import ModuleType

CLASSES: Final[dict[str, type[Any]]] = {
    "HttpToolsProtocol": HttpToolsProtocol,
    "WebSocketsSansIOProtocol": WebSocketsSansIOProtocol,
    "Server": uvicorn.Server,
}
SUBCLASSES: Final[dict[str, tuple[ModuleType, type[Any]]]] = {
    "HttpToolsProtocol": (http_protocol, http_protocol.HttpProtocol),
    "WebSocketsSansIOProtocol": (uvicorn_protocol, uvicorn_protocol.WebSocketProtocol),
    "Server": (server, server.Server),
}
SET_BY_HANDSHAKE: Final = {"response", "scope"}


async def _app(scope: Any, receive: Any, send: Any) -> None:
    pass


def instance(name: str, state: ServerState | None = None) -> Any:
    """Return an instance. Protocols use the event loop only for timers, so any object will do."""
    config = uvicorn.Config(_app, lifespan="off", log_config=None)
    if name == "Server":
        return uvicorn.Server(config)
    loop: Any = object()
    return CLASSES[name](config=config, server_state=state or ServerState(), app_state={}, _loop=loop)


@pytest.mark.parametrize(("name", "method"), [(name, method) for name in OVERRIDDEN for method in OVERRIDDEN[name]])
def test_overridden_method_exists_with_same_parameters(name: str, method: str) -> None:
    original = getattr(CLASSES[name], method)
    override = vars(SUBCLASSES[name][1])[method]
    assert list(inspect.signature(override).parameters) == list(inspect.signature(original).parameters)
    assert inspect.iscoroutinefunction(override) == inspect.iscoroutinefunction(original)


@pytest.mark.parametrize(("name", "attribute"), [(name, each) for name in ATTRIBUTES for each in ATTRIBUTES[name]])
def test_used_attribute_exists(name: str, attribute: str) -> None:
    if name == "WebSocketsSansIOProtocol" and attribute in SET_BY_HANDSHAKE:
        assert f"self.{attribute}" in inspect.getsource(CLASSES[name].handle_connect)
    else:
        assert hasattr(instance(name), attribute)


@pytest.mark.parametrize(("name", "method"), [(name, each) for name in PRIVATE for each in PRIVATE[name]])
def test_called_private_method_exists(name: str, method: str) -> None:
    assert callable(getattr(instance(name), method))


def test_handshake_parser_has_its_bounds_in_its_module() -> None:
    assert http11.MAX_LINE_LENGTH == 2 * http_protocol.MAX_HEAD_BYTES
    assert http_protocol.MAX_HEADERS == http11.MAX_NUM_HEADERS
    assert "MAX_LINE_LENGTH" in inspect.getsource(http11.parse_line)


def test_connections_are_those_of_the_server() -> None:
    """The server closes the protocols in this set on shutdown, so a `DirectSocket` adds itself."""
    state = ServerState()
    assert instance("WebSocketsSansIOProtocol", state).connections is state.connections


def test_websocket_parser_has_handshake_error_and_events() -> None:
    parser = instance("WebSocketsSansIOProtocol").conn
    assert parser.handshake_exc is None
    assert all(hasattr(parser, name) for name in ("receive_data", "receive_eof", "events_received", "data_to_send"))
    # A `DirectSocket` ends the generator, which refers to the parser.
    parser.parser.close()


@pytest.mark.parametrize("name", CLASSES)
def test_lists_of_overrides_and_attributes_are_complete(name: str) -> None:
    module, subclass = SUBCLASSES[name]
    tree = ast.parse(Path(str(module.__file__)).read_text())
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == subclass.__name__]
    inherited = set(dir(instance(name)))
    own = set(vars(subclass))
    overridden = {node.name for node in found.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    overridden = {each for each in overridden & inherited if not each.startswith("__")}
    used = {
        node.attr
        for node in ast.walk(found)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    assert overridden == set(OVERRIDDEN[name])
    # Other modules use `should_exit` too.
    assert {each for each in used - own if not each.startswith("_")} == set(ATTRIBUTES[name]) - {"should_exit"}
