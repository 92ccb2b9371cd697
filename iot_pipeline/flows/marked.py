"""Marked facts: the form in which an answer can cite a feature so that any program finds and checks it.

    `orig_pkts` = 2.265 (above, p97)

The feature's name in backticks, an equals sign, the value as the flow text prints it, and in parentheses what is known
of its place: the direction from the median or mean, and the percentile.
"""

import re

ASKED_FORM = "`<feature>` = <value>"  # as a prompt asks for it
# A value ends before a sentence's punctuation; it may be a number or a word.
MARKED = re.compile(r"`([^`\n]+)` = ([^\s;,()`]*[^\s;,()`.:!?])(?: \(([^()`;\n]*)\))?")


def cited_fact(feature: str, value: str, note: str, marked: bool) -> str:
    """Format a cited feature, marked or plain: `orig_pkts 2.265 (above the median, p97)`.

    Args:
        feature: Name of the feature.
        value: Value as printed.
        note: Text in parentheses; empty for none.
        marked: True for a marked fact.
    """
    return (f"`{feature}` = {value}" if marked else f"{feature} {value}") + (f" ({note})" if note else "")
