"""How a worker generates responses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from gateway.streams.targets import Timeouts

if TYPE_CHECKING:
    from collections.abc import Mapping


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
    timeouts: Mapping[str, Timeouts] = field(default_factory=dict)
    """Of the model aliases that have their own."""

    def of(self, alias: str) -> GenerationOptions:
        """Return the options for the answers of one alias."""
        own = self.timeouts.get(alias, Timeouts())
        return dataclasses.replace(
            self,
            first_token_timeout_s=own.first_timeout or self.first_token_timeout_s,
            idle_timeout_s=own.idle_timeout or self.idle_timeout_s,
            answer_timeout_s=own.answer_timeout or self.answer_timeout_s,
        )
