"""The command line in the process of a test: a process of its own takes 5 s to load Dagster."""

import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from unittest.mock import patch

import pytest

from iot_pipeline import cli
from iot_pipeline import settings as settings_module


def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as `iot-pipeline` does, with `environment` added to the variables (test_end_to_end starts one)."""
    before, out, err = dict(os.environ), StringIO(), StringIO()
    os.environ.update(environment)
    settings_module.settings.cache_clear()
    try:
        with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", ["iot-pipeline", *arguments]):
            with pytest.raises(SystemExit) as ended:
                cli.command()
    finally:
        os.environ.clear()
        os.environ.update(before)
        settings_module.settings.cache_clear()
    return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), out.getvalue(), err.getvalue())
