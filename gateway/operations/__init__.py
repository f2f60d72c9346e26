"""What operators use: metrics port, live page, top, doctor."""
