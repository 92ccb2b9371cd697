"""Asset group evaluation."""
