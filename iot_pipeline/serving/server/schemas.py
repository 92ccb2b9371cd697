"""Bodies of requests and answers, for validation and for the OpenAPI page."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from iot_pipeline.flows.spec import DatasetSpec
from iot_pipeline.serving.units import Unit

GivenUnits = Annotated[
    Unit | None,
    Field(description="Units of the flow's values: raw (packets, bytes, ...), or scaled as the data set is published."),
]
FLOWS_SCHEMA = "Flow"  # place of the data set's own schema in the OpenAPI description


class Strict(BaseModel):
    """Base of our own bodies: a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid")


class FlowsRequest(Strict):
    """Flows to classify or explain: `flows` as objects of source columns, or `text` that holds them."""

    flows: Annotated[
        list[dict[str, Any]] | None,
        Field(min_length=1, json_schema_extra={"items": {"$ref": f"#/components/schemas/{FLOWS_SCHEMA}"}}),
    ] = None
    text: Annotated[str | None, Field(description="CSV with a header, JSON, or lines of `feature: value`.")] = None
    units: GivenUnits = None


class CitedFact(BaseModel):
    """A feature of a flow, its value as printed, and its place among the training flows."""

    feature: str
    value: str
    place: str


class Words(BaseModel):
    """An explanation: its text, how it was decoded, and what the flow does not support."""

    text: str
    decoding: str
    unsupported: list[str]


class Result(BaseModel):
    """Verdict on one flow."""

    model_config = ConfigDict(extra="allow")
    label: str = Field(alias="class", description="`unknown` for a flow of no known class.")
    nearest_class: str
    unknown: bool | None = Field(description="null: the student's evaluation fitted no detector.")
    unknown_because: list[str]
    probability: float
    probabilities: dict[str, float]
    members: list[str] | None = Field(
        alias="set", description="Classes that cannot be ruled out at 0.95; null: unknown."
    )
    unsure: bool | None
    out_of_range: list[str] = Field(description="Features whose value no row of the train pool reaches.")
    evidence: list[CitedFact]
    evidence_from: Literal["explanation", "percentiles"]
    explanation: Words | None


class FlowsAnswer(BaseModel):
    """Verdicts in the order of the flows, and the model that gave them."""

    model: dict[str, Any]
    units: Unit = Field(description="Units in which the flows were read.")
    results: list[Result]


class Part(BaseModel):
    """Part of a message; only text is read."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class Message(BaseModel):
    """Message of a conversation; the flow stands in the last one of the user."""

    model_config = ConfigDict(extra="allow")
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(extra="allow")
    include_usage: bool | None = None


class ChatRequest(BaseModel):
    """Request of OpenAI's chat completions. The student decodes greedily: sampling parameters change nothing."""

    model_config = ConfigDict(extra="allow")
    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    units: GivenUnits = None


class ResponsesRequest(BaseModel):
    """Request of OpenAI's responses."""

    model_config = ConfigDict(extra="allow")
    model: str
    input: str | Annotated[list[Message], Field(min_length=1)]
    # Without effect, and part of the answer: what JSON cannot hold (NaN) must not get there.
    instructions: str | None = None
    metadata: dict[str, str] | None = None
    max_output_tokens: Annotated[int | None, Field(ge=1)] = None
    stream: bool | None = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    units: GivenUnits = None


class ScoreRequest(BaseModel):
    """Request of SGLang's scoring: the prompt `query` + item holds a flow, or `query` does and items are classes."""

    model_config = ConfigDict(extra="allow")
    model: str | None = None
    query: str | list[int] | None = None
    items: str | list[str] | list[list[int]] | None = None
    label_token_ids: list[int] | None = None
    labels: Annotated[list[str] | None, Field(description="Classes in place of label_token_ids.")] = None
    apply_softmax: bool = False
    item_first: bool = False
    units: GivenUnits = None


class ScoreAnswer(BaseModel):
    """Probabilities of the labels [items, labels]."""

    scores: list[list[float]]
    model: str
    usage: dict[str, int]
    object: Literal["scoring"]


class ErrorDetail(BaseModel):
    """Error in OpenAI's shape."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """Body of every refusal."""

    error: ErrorDetail


def flow_schema(spec: DatasetSpec) -> dict[str, Any]:
    """Return the JSON schema of a flow: the source columns of a data set; further ones are ignored."""
    told = {feature.name: f"{feature.meaning} ({feature.unit})" for feature in spec.features}
    texts = set(spec.text_columns)
    numbers = {
        name for feature in spec.features if feature.expression is None for name in feature.source_columns
    } - texts
    columns = [name for name in spec.source_columns if name != spec.label_column]

    def kind(name: str) -> dict[str, Any]:
        described = {"description": told[name]} if name in told else {}
        if name in texts:
            return {"type": "string", "pattern": "^[a-zA-Z0-9_]{1,64}$", **described}
        return {"type": "number", **described} if name in numbers else described

    return {"type": "object", "properties": {name: kind(name) for name in columns}, "required": columns}
