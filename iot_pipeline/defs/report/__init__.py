"""Asset group report."""
