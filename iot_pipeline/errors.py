"""Error type with a message written for users."""


class UserError(Exception):
    """Bad input or set-up: one sentence naming the file, row, column or setting and the remedy."""
