"""The settings of a worker; see `gateway.streams.settings` for how settings are read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.streams.settings import Duration, ProcessSettings


class WorkerSettings(ProcessSettings):
    """The settings of one worker process."""

    demo_rate: float = Field(40.0, ge=0, description="tokens a second of the demo provider; 0: no pause")
    attempts: int = Field(3, ge=1, le=1000, description="workers that may try one response before it fails")
    recovery: Literal["restart", "continue"] = Field(
        "continue", description="what a new attempt does with the text of a dead worker: restart, or continue it"
    )
    concurrency: int = Field(300, ge=1, description="responses that one worker generates at once")
    window: Duration = Field(0.025, ge=0, le=1, description="batching interval of tokens after the first")
    patience: Duration = Field(60.0, ge=0, description="how long failed provider calls are retried; 0: not at all")
    store_patience: Duration = Field(60.0, ge=1, description="how long an unavailable store is retried")
    calls: int = Field(12, ge=1, le=1000, description="provider calls that one attempt makes at most, over all targets")
    call_tokens: int = Field(
        0, ge=0, description="tokens that failed calls of an attempt may use until no further call is made; 0: no limit"
    )
    first_timeout: Duration = Field(120.0, gt=0, description="how long a provider may take to its first token")
    idle_timeout: Duration = Field(60.0, gt=0, description="how long a provider may be silent between tokens")
    answer_timeout: Duration = Field(3600.0, gt=0, description="how long one attempt at an answer may take")
    longest: int = Field(1_000_000, ge=1000, description="bytes of text at which a response is cut off")
    context: int = Field(
        100_000, ge=1000, description="characters of history and continued text that a provider gets at most"
    )
