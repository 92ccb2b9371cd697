"""Asset group flows."""
