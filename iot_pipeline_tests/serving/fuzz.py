"""Requests drawn from the OpenAPI description of a server, by schemathesis."""

from __future__ import annotations

from collections import Counter

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]
ANSWER_S = 20.0


def fuzz(url: str, mode: GenerationMode, examples: int) -> Counter[str]:
    """Send requests that fit the description, or do not; return the answers by operation and status.

    Raises an error for a 5xx, a status or content type that is not described, and an answer that takes 20 s.
    """
    answers: Counter[str] = Counter()
    for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and operation.method == "get":
            continue  # nothing in it can be wrong

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=examples, deadline=None, database=None, derandomize=True,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def ask(case: schemathesis.Case) -> None:
            answer = case.call_and_validate(checks=CHECKS, timeout=ANSWER_S)
            answers[f"{case.operation.label} {answer.status_code}"] += 1

        ask()
    return answers


def answer_to(url: str, path: str, body: object) -> int:
    """Send one request, hold its answer to the description, and return its status."""
    operation = schemathesis.openapi.from_url(f"{url}/openapi.json")[path]["POST"]
    case = operation.Case(body=body, media_type="application/json")
    return case.call_and_validate(checks=CHECKS, timeout=ANSWER_S).status_code
