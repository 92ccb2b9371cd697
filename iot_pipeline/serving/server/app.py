"""The application: routes, errors in OpenAI's shape, and the OpenAPI description of both."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp

from iot_pipeline import __version__
from iot_pipeline.serving.classifier import Verdict
from iot_pipeline.serving.server.bodies import OneValueRoute
from iot_pipeline.serving.server.chat import chat
from iot_pipeline.serving.server.guard import Access, Guard
from iot_pipeline.serving.server.limits import AsciiJSON, Refusal
from iot_pipeline.serving.server.reference import reference_page
from iot_pipeline.serving.server.responses import respond
from iot_pipeline.serving.server.schemas import (
    FLOWS_SCHEMA,
    ChatRequest,
    ErrorAnswer,
    FlowsAnswer,
    FlowsRequest,
    ResponsesRequest,
    ScoreAnswer,
    ScoreRequest,
    flow_schema,
)
from iot_pipeline.serving.server.score import score
from iot_pipeline.serving.server.service import Service

PAGE = Path(__file__).parent / "page"
STATIC = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": told}
    for status, told in {
        400: "The request cannot be understood.", 401: "The token is missing or wrong.",
        403: "Another host name, or a page of another site.", 404: "No such model.",
        408: "The body arrived too slowly.", 413: "Too long, or too many flows.", 415: "Not JSON.",
        429: "Too many flows wait; see Retry-After.", 431: "The head is too long.",
        503: "Too many requests, or the service stops.", 504: "No answer in time.",
    }.items()
}  # fmt: skip
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The answer, or its parts as events.", "content": {"text/event-stream": {}}}
}


def application(service: Service, access: Access) -> ASGIApp:
    """Return the application of a service, which starts and stops with it."""

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        try:
            await service.start()
        except Exception as error:
            print(f"error: the student cannot answer: {error}", file=sys.stderr, flush=True)
            raise
        yield
        service.ready = False

    app = FastAPI(
        title="iot_pipeline serve", version=__version__, docs_url=None, redoc_url=None, lifespan=life,
        description=f"Student {service.model_id}: classes and explanations of network flows.",
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )  # fmt: skip
    app.router.route_class = OneValueRoute
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _failed)
    _own_routes(app, service)
    _compatible_routes(app, service)
    _service_routes(app, service)
    _describe(app, service)
    return Guard(app, access, service.limits, service.metrics)


def _own_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/classify", response_model=FlowsAnswer, responses=REFUSALS, tags=["flows"])
    async def classify(request: FlowsRequest) -> Response:
        """Name the class of each flow, with calibrated probabilities."""
        found = await service.classify(await service.rows_of(request.flows, request.text), request.units)
        return _answer(service, service.classes(found), request)

    @app.post("/v1/explain", response_model=FlowsAnswer, responses=REFUSALS, tags=["flows"])
    async def explain(request: FlowsRequest) -> Response:
        """Name the class of each flow and say why; what is said is checked against the flow."""
        verdicts = await service.explain(await service.rows_of(request.flows, request.text), request.units)
        return _answer(service, verdicts, request)


def _answer(service: Service, verdicts: Sequence[Verdict], request: FlowsRequest) -> Response:
    """Return the verdicts of a request with the model that gave them."""
    units = request.units or service.default_units
    return AsciiJSON({"model": service.origin, "units": units, "results": list(map(service.told, verdicts))})


def _compatible_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", responses={**REFUSALS, **EVENTS}, tags=["OpenAI"])
    async def completions(request: ChatRequest) -> Response:
        """Answer the flow in the last message of the user, as OpenAI's chat completions."""
        return await chat(service, request)

    @app.post("/v1/responses", responses={**REFUSALS, **EVENTS}, tags=["OpenAI"])
    async def responses(request: ResponsesRequest) -> Response:
        """Answer the flow in the input, as OpenAI's responses."""
        return await respond(service, request)

    @app.get("/v1/models", responses=REFUSALS, tags=["OpenAI"])
    async def models() -> Response:
        """List the student that is served, with its data set's columns and classes."""
        return AsciiJSON({"object": "list", "data": [_model(service)]})

    @app.get("/v1/models/{name}", responses=REFUSALS, tags=["OpenAI"])
    async def model(name: str) -> Response:
        """Describe the student."""
        service.check_model(name)
        return AsciiJSON(_model(service))

    @app.post("/v1/score", response_model=ScoreAnswer, responses=REFUSALS, tags=["SGLang"])
    async def scores(request: ScoreRequest) -> Response:
        """Score classes of flows in the shape of SGLang's scoring."""
        return AsciiJSON(await score(service, request))


def _service_routes(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["service"])
    async def healthz() -> Response:
        """Tell that the process answers, and its model thread runs."""
        return AsciiJSON({"status": "ok"}) if service.model.alive else AsciiJSON({"status": "failed"}, 503)

    @app.get("/readyz", tags=["service"])
    async def readyz() -> Response:
        """Tell whether requests are taken: 503 while the service starts or stops."""
        return AsciiJSON({"status": "ready"}) if service.ready else AsciiJSON({"status": "not ready"}, 503)

    @app.get("/metrics", response_class=PlainTextResponse, responses=REFUSALS, tags=["service"])
    async def metrics() -> Response:
        """Return the figures of the service for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> Response:
        """Return the OpenAPI description as a page, which loads nothing from elsewhere."""
        return HTMLResponse(reference_page(app.openapi()))

    for path, (name, kind) in STATIC.items():
        content = (PAGE / name).read_bytes()
        app.add_api_route(path, _file(content, kind), include_in_schema=False)


def _file(content: bytes, kind: str) -> Any:
    async def send() -> Response:
        return Response(content, media_type=kind)

    return send


def _model(service: Service) -> dict[str, Any]:
    """Return the student as OpenAI's API describes a model, with what a client of ours needs."""
    spec, limits = service.classifier.spec, service.limits
    return {
        "object": "model", "created": service.started, "owned_by": "iot_pipeline",
        **service.origin,
        "title": spec.title, "classes": spec.classes, "example": service.example,
        "columns": [name for name in spec.source_columns if name != spec.label_column],
        "features": [
            {"name": f.name, "unit": f.unit, "meaning": f.meaning, "kind": f.kind} for f in spec.features
        ],
        "units": {
            "default": service.default_units, "accepted": list(service.units.accepted),
            "example": service.units.default, "assumed_scales": service.units.assumed,
        },
        "limits": {"flows": limits.flows, "explained_flows": limits.explained_flows, "body_bytes": limits.body_bytes},
    }  # fmt: skip


def _describe(app: FastAPI, service: Service) -> None:
    """Put the data set's own columns into the OpenAPI description, and take FastAPI's own errors out."""
    described = app.openapi()
    described["components"]["schemas"][FLOWS_SCHEMA] = flow_schema(service.classifier.spec)
    for name in ("HTTPValidationError", "ValidationError"):
        described["components"]["schemas"].pop(name, None)
    units, default = list(service.units.accepted), service.default_units
    for name in ("FlowsRequest", "ChatRequest", "ResponsesRequest", "ScoreRequest"):
        own = described["components"]["schemas"][name]["properties"]
        own["units"] = {"type": "string", "enum": units, "default": default, "description": own["units"]["description"]}
    named = {"type": "string", "enum": [service.model_id]}
    for name in ("ChatRequest", "ResponsesRequest", "ScoreRequest"):
        described["components"]["schemas"][name]["properties"]["model"] = named
    described["paths"]["/v1/models/{name}"]["get"]["parameters"][0]["schema"] = named
    described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    described["security"] = [{}, {"token": []}]
    for methods in described["paths"].values():
        for operation in methods.values():
            operation["responses"].pop("422", None)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return error.response()


async def _invalid(_request: Request, error: Exception) -> Response:
    """Tell the first fault of a body; the body itself is not repeated."""
    assert isinstance(error, RequestValidationError)
    first = _telling(error.errors())
    if first["type"] == "json_invalid":
        return Refusal(400, "the body is not valid JSON", "invalid_json").response()
    places = [part for part in first["loc"][1:] if not _is_kind(part)]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in places).lstrip(".")
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    message = f"{param or 'the body'}: {first['msg']}"[:500]
    return Refusal(400, message, code, param[:200] or None).response()


def _is_kind(part: int | str) -> bool:
    """Return True for a part of a place that is a kind of value: pydantic names the one that it tried of several."""
    return isinstance(part, str) and (part in ("str", "int", "float", "bool") or not part.isidentifier())


def _telling(faults: Sequence[Any]) -> Any:
    """Return the first fault; where a value may be of several kinds, that of the kind that it is likest to."""
    place = faults[0]["loc"]
    if not _is_kind(place[-1]):
        return faults[0]
    of_value = [fault for fault in faults if fault["loc"][: len(place) - 1] == place[:-1]]
    return max(of_value, key=lambda fault: (not fault["type"].endswith("_type"), len(fault["loc"])))


async def _http_error(_request: Request, error: Exception) -> Response:
    """Format the framework's errors (404, 405, a body that is no JSON) as all others."""
    assert isinstance(error, HTTPException)
    return Refusal(error.status_code, str(error.detail), headers=dict(error.headers or {})).response()


async def _failed(_request: Request, _error: Exception) -> Response:
    return Refusal(500, "the server failed").response()
