"""Asset group quality."""
