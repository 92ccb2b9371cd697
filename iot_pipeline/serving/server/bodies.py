"""Bodies of requests: JSON that names a key twice in an object is refused, as in files (flows/reading/names.py)."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

from iot_pipeline.errors import UserError
from iot_pipeline.flows.reading.names import one_value_each


class OneValueRequest(Request):
    """Request whose JSON has one value for each key."""

    async def json(self) -> Any:
        """Return the body; HTTPException (400) if it has a key twice."""
        if not hasattr(self, "_json"):
            try:
                self._json = json.loads(await self.body(), object_pairs_hook=one_value_each)
            except UserError as error:
                raise HTTPException(400, str(error)) from None
        return self._json


class OneValueRoute(APIRoute):
    """Route of such requests."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of the route."""
        handler = super().get_route_handler()

        async def one_value(request: Request) -> Response:
            return await handler(OneValueRequest(request.scope, request.receive))

        return one_value
