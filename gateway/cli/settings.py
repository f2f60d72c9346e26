"""Every setting of every command: the product in one process has those of a gateway and of a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.settings import GatewaySettings
from gateway.streams import settings
from workers.settings import WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Mapping


class Settings(GatewaySettings, WorkerSettings):
    """The settings of `tokenwire run`, which are all that there are."""


def load(options: Mapping[str, Any]) -> Settings:
    """Return every setting, from the environment and from `options`, which win; raises SettingsError."""
    return settings.load(Settings, options, Settings.model_fields)
