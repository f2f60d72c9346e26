"""`python -m gateway`: the same as `tokenwire`."""

from gateway.cli.main import main

main()
