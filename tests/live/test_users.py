"""The store users of deploy/redis/users.acl have only the permissions that they need; TLS."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.auth import Identity
from gateway.streams.quota import Limits
from gateway.streams.store.errors import StoreError
from gateway.streams.store.store import open_store
from gateway.submissions import Failure, Submissions
from gateway.wire import Send
from tests.gateway.streams.steps import Conversation
from tests.live.client import Client
from tests.live.processes import GatewayProcess, WorkerProcess
from tests.stores import RealServer, free_port

if TYPE_CHECKING:
    from tests.stores import ServerProgram

pytestmark = pytest.mark.live

USERS = (Path(__file__).parents[2] / "deploy" / "redis" / "users.acl").read_text().splitlines()

FORBIDDEN = {
    "tokenwire-gateway": [
        "XREADGROUP GROUP workers w STREAMS tw:{p00}:jobs >",
        "XCLAIM tw:{p00}:jobs workers w 0 1-1",
        "XGROUP DESTROY tw:{p00}:jobs workers",
    ],
    "tokenwire-worker": ["MGET tw:a", "XGROUP DESTROY tw:{p00}:jobs workers"],
}
FORBIDDEN_TO_BOTH = [
    "KEYS *",
    "SCAN 0",
    "FLUSHALL",
    "CONFIG GET *",
    "MONITOR",
    "ACL LIST",
    "INFO",
    "SHUTDOWN",
    "SCRIPT FLUSH",
    "SET other 1",
    "XRANGE other - +",
    "PUBLISH other word",
    "EVAL return(redis.call('KEYS','*')) 0",
]


def user(server: RealServer, name: str) -> str:
    """Return the address of the store for one of the users."""
    password = "GATEWAY_PASSWORD" if name == "tokenwire-gateway" else "WORKER_PASSWORD"
    return f"redis://{name}:{password}@127.0.0.1:{server.port}/0"


async def submit_within_limits(address: str) -> None:
    """Submit with instructions and a subject, as a gateway with tokens does; a worker answers."""
    store = await open_store(address)
    limits = Limits(open_responses=1, subject_bytes=1 << 20, conversation_bytes=1 << 20)
    submissions, alice = Submissions(store, None, limits=limits), Identity("alice", float("inf"), ("*",))
    async with asyncio.timeout(30):
        for key in ("one", "two"):
            request = Send(key=key, conversation="limited", text="Why?", instructions="Be brief")
            # The second waits for the end of the first, whose worker releases it.
            while isinstance(result := await submissions.send(request, alice), Failure):
                assert result.code == "too_many"
                await asyncio.sleep(0.05)
    await store.close()


@pytest.mark.parametrize("make", ["valkey", "redis"])
async def test_each_store_user_has_only_its_permissions(make: ServerProgram) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(RealServer(make))
        for line in USERS:
            server.command("ACL", "SETUSER", *line.split()[1:])
        gateway = stack.enter_context(GatewayProcess(user(server, "tokenwire-gateway")))
        models = ("--models", json.dumps({"default": "demo"}), "--demo-rate", "200", "--lease", "1")
        worker = stack.enter_context(WorkerProcess(user(server, "tokenwire-worker"), *models))
        async with Client("users") as client:
            await client.connect(gateway.socket_url)
            await client.settled(await client.ask("Why?"))
            stopped, queued = await client.ask("/long 4000"), await client.ask("And then?")
            await client.shows(stopped, 20)
            await client.stop(stopped)
            assert (await client.ended(stopped)).reason == "stopped"
            await client.settled(queued)
            handed_over = await client.ask("/long 300")
            await client.shows(handed_over, 20)
            # The first worker is killed, another takes over, and that one shuts down gracefully.
            worker.kill()
            other = stack.enter_context(WorkerProcess(user(server, "tokenwire-worker"), *models))
            await client.settled(handed_over, 60.0)
            await submit_within_limits(user(server, "tokenwire-gateway"))
            await client.settled(await client.ask("Why?"))
            other.terminate()
            assert other.wait() == 0
        assert server.command("ACL", "LOG") == []
        for name, commands in FORBIDDEN.items():
            with redis.Redis.from_url(user(server, name)) as connection:
                for command in (*commands, *FORBIDDEN_TO_BOTH):
                    with pytest.raises((redis.exceptions.NoPermissionError, redis.exceptions.ResponseError)) as refused:
                        connection.execute_command(*command.split(" "))
                    text = str(refused.value)
                    assert "permission" in text or "can't run this command" in text, command


def certificates(folder: Path) -> None:
    """Create a certificate authority and a server certificate for 127.0.0.1."""
    now = datetime.datetime.now(datetime.UTC)

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    def write(name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )

    def begin(subject: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(named(subject))
            .issuer_name(named("authority"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )

    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    constraint = x509.BasicConstraints(ca=True, path_length=None)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    root = begin("authority", authority).add_extension(constraint, critical=True)
    root = root.add_extension(usage, critical=True).add_extension(identifier, critical=False)
    write("ca", authority, root.sign(authority, hashes.SHA256()))
    leaf = begin("server", key).add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
    )
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    write("server", key, leaf.add_extension(issuer, critical=False).sign(authority, hashes.SHA256()))


async def test_store_over_tls_with_private_authority(tmp_path: Path) -> None:
    certificates(tmp_path)
    port = free_port()
    files = ("--tls-cert-file", str(tmp_path / "server.pem"), "--tls-key-file", str(tmp_path / "server.key"))
    options = (
        "--tls-port",
        str(port),
        *files,
        "--tls-ca-cert-file",
        str(tmp_path / "ca.pem"),
        "--tls-auth-clients",
        "no",
    )
    with RealServer("redis", *options):
        store = await open_store(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={tmp_path / 'ca.pem'}")
        conversation = Conversation(store)
        await conversation.prepare()
        accepted = await conversation.ask()
        writer = await conversation.begin()
        assert await writer.write("over TLS")
        await writer.end()
        assert await conversation.settled_text(accepted.response) == "over TLS"
        await store.close()
        # Without the authority, the certificate is not trusted.
        with pytest.raises(StoreError, match="no store answers"):
            await open_store(f"rediss://127.0.0.1:{port}/0")
