"""Python's search for garbage, out of the way of many short exchanges."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

GARBAGE_AFTER = 20_000  # objects; Python's own 700 are fewer than a burst of answers makes


@contextmanager
def rarely_interrupted() -> Iterator[None]:
    """Python looks for garbage more seldom, and not through what is there already: a look lasts 10 to 70 ms, for which
    answers and the requests that are to follow them have to wait.
    """
    usual = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()
