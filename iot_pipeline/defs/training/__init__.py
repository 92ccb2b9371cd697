"""Asset group training."""
