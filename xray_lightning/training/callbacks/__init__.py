"""What a run does and records while it trains."""
