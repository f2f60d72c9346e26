"""`tokenwire` whose blocked workers lose their leases after 0.3 s, for tests of the bound."""

from __future__ import annotations

from gateway.cli.main import main
from workers import lease_keeper

# It is a constant in the product.
vars(lease_keeper)["MAX_BLOCKED_S"] = 0.3

if __name__ == "__main__":
    main()
