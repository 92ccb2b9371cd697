"""The one error that users are meant to read."""


class UserError(Exception):
    """Bad input or set-up: one sentence that names the file, row, column or setting and says what to do."""
