"""How many requests may be in flight: grows by one a round trip, halves when the server says that it is too much.

Belongs here: the adaptive limit. Does not belong here: requests (engine.py).
"""

from __future__ import annotations

import asyncio
import time


class Gate:
    """Additive increase, multiplicative decrease, between 1 and `most`; waits out what the server asks for."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        self.active = 0
        self.closed_until = 0.0
        self._waiters: list[asyncio.Future[None]] = []

    async def enter(self) -> None:
        """Wait for a free place."""
        while True:
            pause = self.closed_until - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            elif self.active < max(1, int(self.limit)):
                self.active += 1
                return
            else:
                waiter = asyncio.get_running_loop().create_future()
                self._waiters.append(waiter)
                await waiter

    def leave(self) -> None:
        """Give the place back and wake whoever fits now."""
        self.active -= 1
        places = max(1, int(self.limit)) - self.active
        while self._waiters and places > 0:
            waiter = self._waiters.pop()
            if not waiter.done():
                waiter.set_result(None)
                places -= 1

    def succeeded(self) -> None:
        """A round trip went well: one more place after as many of them as there are places."""
        self.limit = min(self.most, self.limit + 1 / self.limit)

    def throttled(self, seconds: float) -> None:
        """The server said 429: half the places, and nothing at all for so long. One burst halves once."""
        now = time.monotonic()
        if now >= self.closed_until:
            self.limit = max(1.0, self.limit / 2)
        self.closed_until = max(self.closed_until, now + min(seconds, 60.0))
