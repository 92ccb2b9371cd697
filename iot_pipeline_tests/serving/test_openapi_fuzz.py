"""No request drawn from the OpenAPI description, fitting or not, breaks the server (benchmarks/serve_fuzz.py: more)."""

from __future__ import annotations

import pytest
from schemathesis import GenerationMode

from iot_pipeline_tests.serving.factories import SPEC
from iot_pipeline_tests.serving.fuzz import answer_to, fuzz
from iot_pipeline_tests.serving.served import fake, served


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_breaks_the_server(mode: GenerationMode) -> None:
    with served(fake(tokens=1)) as url:
        answers = fuzz(url, mode, examples=4)
        # Of drawn requests few or none have every feature.
        assert answer_to(url, "/v1/classify", {"flows": [dict.fromkeys(SPEC.feature_names, 0.5)]}) == 200
    assert {name.split()[1] for name in answers} >= {"/v1/classify", "/v1/chat/completions", "/v1/score"}
