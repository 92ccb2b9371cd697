"""Asset group splits."""
