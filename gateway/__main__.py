"""`python -m gateway`: the same as `tokenwire`."""

from gateway.cli import main

main()
