"""How a worker generates responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """The settings of the same names, see `workers.settings`. They have no defaults here: each default exists once."""

    lease_s: float
    max_attempts: int
    recovery: Literal["restart", "continue"]
    batching_interval_s: float
    """The minimum; load widens it (see `workers.batch`)."""
    store_patience_s: float
    provider_patience_s: float
    max_calls: int
    max_call_tokens: int
    first_token_timeout_s: float
    idle_timeout_s: float
    answer_timeout_s: float
    """Of one attempt, with all of its provider calls."""
    max_answer_bytes: int
    max_prompt_characters: int
