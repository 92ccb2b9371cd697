"""Asset group baseline."""
