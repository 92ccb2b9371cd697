"""Asset group prompts."""
