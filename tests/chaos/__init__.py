"""Random failures, drawn from a seed, on a whole deployment; and a checker that knows only the protocol."""
