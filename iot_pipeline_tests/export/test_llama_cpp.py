"""An installed llama.cpp that does not come up ends an export in a sentence, and leaves no process."""

from pathlib import Path

import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.export import llama_cpp


@pytest.mark.parametrize("child", ["import time; time.sleep(60)", "raise SystemExit('no such model')"])
def test_a_server_that_does_not_come_up_is_told(child: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "installed", lambda: llama_cpp.PACKAGE)
    monkeypatch.setattr(llama_cpp, "CHILD", child)
    monkeypatch.setattr(llama_cpp, "START_S", 1.0)
    with pytest.raises(UserError, match="xllamacpp does not run the GGUF that was written"):
        with llama_cpp.serving(Path("x.gguf"), 100, 1):
            pass
