"""The one error that users are meant to read.

Belongs here: exceptions shared by every package. Does not belong here: how they are shown (cli.py).
"""


class UserError(Exception):
    """Bad input or set-up: one sentence that names the file, row, column or setting and says what to do."""
