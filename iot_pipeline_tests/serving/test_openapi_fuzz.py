"""No request drawn from the OpenAPI description, fitting or not, breaks the server (benchmarks/serve_fuzz.py: more)."""

from __future__ import annotations

import pytest
from schemathesis import GenerationMode

from iot_pipeline_tests.serving.fuzz import fuzz
from iot_pipeline_tests.serving.served import fake, served


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_breaks_the_server(mode: GenerationMode) -> None:
    with served(fake(tokens=1)) as url:
        answers = fuzz(url, mode, examples=4)
    assert {name.split()[1] for name in answers} >= {"/v1/classify", "/v1/chat/completions", "/v1/score"}
    if mode is GenerationMode.POSITIVE:
        assert answers["POST /v1/classify 200"] > 0
