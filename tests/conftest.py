"""How hard hypothesis tries: TOKENWIRE_HYPOTHESIS names one of the profiles `default`, `quick` and `long`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# The fixtures `store` and `stores`: every kind of store that this machine can start.
pytest_plugins = ["tests.stores"]

for _name, _examples in (("default", 200), ("quick", 30), ("long", 5000)):
    settings.register_profile(
        _name,
        max_examples=_examples,
        # No deadlines: the machine that runs this may be busy with something else.
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        # What lands must not depend on luck; `long` looks for what is new.
        derandomize=_name != "long",
    )
settings.load_profile(os.environ.get("TOKENWIRE_HYPOTHESIS", "default"))
