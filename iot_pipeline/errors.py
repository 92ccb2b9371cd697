"""Error type with a message written for users, and the guard of every text that is printed."""


class UserError(Exception):
    """Bad input or set-up: one sentence naming the file, row, column or setting and the remedy."""


class BudgetReached(UserError):
    """The budget has no room for the next request; what was answered until then is kept."""


def printable(text: str, kept: str = "\n\t") -> str:
    """Replace what a terminal would obey (escape sequences, direction marks) by U+FFFD; line breaks and tabs stay.

    `kept` are the control characters that stay: none in a name, which must not break the line of a message.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() or sign in kept else "\ufffd" for sign in text)
