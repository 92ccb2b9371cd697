"""What `trace` takes for the number of a row, on the command line and in the address of a page."""

import pytest

from iot_pipeline.commands import trace as command
from iot_pipeline.errors import UserError
from iot_pipeline.settings import settings


@pytest.mark.parametrize("word", ["x", "-1", "1.5", "", "²", "9" * 5000])  # int() refuses more than 4,300 digits
def test_what_is_no_number_of_a_row_is_told(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.Lake, "check_exists", lambda _: None)
    with pytest.raises(UserError, match="say which row, from 1"):
        command.trace(settings(), ["row", word], "10K", "original")
