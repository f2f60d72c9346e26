"""The settings of a gateway; see `gateway.streams.settings` for how settings are read."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Final, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from gateway.origins import host_name, normal_origin
from gateway.streams.credentials import read_secret_file
from gateway.streams.settings import Duration, ProcessSettings

MIN_TOKEN_BYTES: Final = 16


class GatewaySettings(ProcessSettings):
    """The settings of one gateway process."""

    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0: a free one")
    processes: int = Field(1, ge=1, le=256, description="processes of one gateway that share its port")
    auth: Literal["none", "jwt"] | None = Field(
        None,
        description="none or jwt; unset: jwt where there is a key, none on a loopback address, otherwise the start is "
        "refused",
    )
    jwt_key: SecretStr | None = Field(
        None, description="secret (HS256) or public key in PEM form (RS256, ES256) that verifies tokens; @FILE reads it"
    )
    jwt_audience: str | None = Field(None, description="audience that tokens must name; unset: any")
    jwt_issuer: str | None = Field(None, description="issuer that tokens must name; unset: any")
    origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="origins of the web pages that may connect, separated by commas; * for every page"
    )
    hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="host names that are served without authentication, besides loopback, TOKENWIRE_HOST and the "
        "address of the connection, separated by commas; with a key every name is served",
    )
    proxies: str = Field(
        "",
        description="addresses or networks of the proxies, separated by commas: the right-most address of "
        "X-Forwarded-For that is none of them is the client's; *: every peer is a proxy, its right-most address is "
        "the client's, so no client may reach the gateway past the proxy",
    )
    sockets_per_address: int | None = Field(
        None,
        ge=1,
        description="connection limit of one address (IPv6: of one /64 network); unset: 256, and no limit for loopback "
        "addresses",
    )
    sockets: int | None = Field(
        None,
        ge=1,
        description="connection limit of one gateway process, HTTP requests included; unset: the limit of open files "
        "less 96",
    )
    sockets_per_subject: int = Field(
        100,
        ge=0,
        description="connection limit of one subject (`sub` of its tokens) of one gateway process: sockets, event "
        "streams, and HTTP responses that are being sent; 0: no limit",
    )
    accepts: int = Field(
        1000,
        ge=0,
        description="rate limit of new sockets and event streams of one gateway process, a second; 0: no limit",
    )
    requests: int = Field(
        20,
        ge=0,
        description="rate limit of the requests of one subject (without authentication: of one address but loopback), "
        "a second, over all transports of one gateway process; a snapshot costs more; 0: no limit",
    )
    open_per_subject: int = Field(
        200, ge=0, description="open answers of one subject (`sub` of its tokens); 0: no limit"
    )
    daily_per_subject: int = Field(
        64,
        ge=0,
        description="MiB that one subject may store a day, with its messages, instructions and answers; 0: no limit",
    )
    daily_per_conversation: int = Field(64, ge=0, description="MiB that one conversation may store a day; 0: no limit")
    queue_timeout: Duration = Field(
        600.0,
        ge=1,
        description="how long an answer may be without a worker, at its start or after its worker died, until it fails "
        "as `no_worker`",
    )
    notice: Duration = Field(
        5.0,
        ge=0,
        description="part of the drain (at most half) during which /readyz fails but new clients are still accepted",
    )
    memory: int = Field(256, ge=16, description="MiB of logs that a gateway process keeps in memory at most")
    operator_token: SecretStr | None = Field(
        None,
        description="bearer token of operators, for /live and for /metrics from other machines; @FILE reads it; unset: "
        "both are off",
    )

    @field_validator("origins", mode="before")
    @classmethod
    def _split_origins(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        origins = [item.strip() for item in value.split(",") if item.strip()]
        normal = [item if item == "*" else normal_origin(item) for item in origins]
        if None in normal:
            raise ValueError(f"{origins[normal.index(None)]!r} is no origin such as https://example.com")
        return tuple(normal)

    @field_validator("hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        hosts = tuple(item.strip() for item in value.split(",") if item.strip())
        for item in hosts:
            if host_name(item) is None:
                raise ValueError(f"{item!r} is no host name such as chat.example.com")
        return hosts

    @field_validator("proxies")
    @classmethod
    def _are_addresses(cls, value: str) -> str:
        for item in (item.strip() for item in value.split(",")):
            if item in ("", "*"):
                continue
            try:
                # Strict, like uvicorn: it would take 10.0.0.5/8 as a name and trust no address.
                ipaddress.ip_network(item)
            except ValueError:
                raise ValueError(
                    f"{item!r} is no IP address or network such as 10.0.0.0/8; host names are not resolved"
                ) from None
        return value

    @field_validator("jwt_key", "operator_token", mode="before")
    @classmethod
    def _read_file(cls, value: Any) -> Any:
        value = read_secret_file(value)
        # A line end from a console is no part of a key; @FILE drops it too.
        return value.strip() if isinstance(value, str) else value

    @field_validator("operator_token")
    @classmethod
    def _has_enough_bytes(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().encode()) < MIN_TOKEN_BYTES:
            raise ValueError(f"the token has fewer than {MIN_TOKEN_BYTES} bytes")
        return value

    @model_validator(mode="after")
    def _is_consistent(self) -> GatewaySettings:
        if self.auth == "jwt" and self.jwt_key is None:
            raise ValueError("TOKENWIRE_AUTH=jwt needs TOKENWIRE_JWT_KEY")
        if self.key is not None:
            # Imported here: PyJWT and its cryptography take 0.1 s, and most commands read no token.
            from gateway.auth import Authenticator, KeyUnusableError  # noqa: PLC0415

            try:
                Authenticator(self.key, refuse_weak=not self.loopback)
            except KeyUnusableError as error:
                raise ValueError(f"TOKENWIRE_JWT_KEY: {error}") from error
        if self.auth is None and self.jwt_key is None and not self.loopback:
            raise ValueError(
                f"TOKENWIRE_HOST={self.host!r} accepts clients of other machines: set TOKENWIRE_JWT_KEY, "
                "or TOKENWIRE_AUTH=none to serve every client"
            )
        return self

    @property
    def loopback(self) -> bool:
        """Whether only programs of this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def key(self) -> str | None:
        """The key that verifies tokens; None where no token is required."""
        return self.jwt_key.get_secret_value() if self.jwt_key is not None and self.auth != "none" else None
