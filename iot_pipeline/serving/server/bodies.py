"""Bodies of requests: JSON that names a key twice in an object is refused, as in files (flows/reading/names.py)."""

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

from iot_pipeline.errors import UserError
from iot_pipeline.flows.reading.names import one_value_each
from iot_pipeline.serving.server.limits import Refusal

JSON_TYPE = re.compile(r"\s*application/([^;]+\+)?json\s*(;|$)", re.IGNORECASE)


class OneValueRequest(Request):
    """Request whose JSON has one value for each key."""

    async def json(self) -> Any:
        """Return the body; HTTPException (400) if it has a key twice."""
        if not hasattr(self, "_json"):
            try:
                self._json = json.loads(await self.body(), object_pairs_hook=one_value_each)
            except UserError as error:
                raise HTTPException(400, str(error)) from None
            except (ValueError, RecursionError) as error:  # also no UTF-8, nested too deeply, a number too long
                raise json.JSONDecodeError(str(error), "", 0) from None
        return self._json


class OneValueRoute(APIRoute):
    """Route of such requests."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of the route."""
        handler = super().get_route_handler()

        async def one_value(request: Request) -> Response:
            if request.method == "POST" and not JSON_TYPE.match(request.headers.get("content-type", "")):
                raise Refusal(415, "the body must be JSON: send the header Content-Type: application/json")
            return await handler(OneValueRequest(request.scope, request.receive))

        return one_value
