"""Scripts of benchmarks/, started as a user starts them. They are in the checkout only."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from iot_pipeline.settings import PROJECT_ROOT

SCRIPTS = PROJECT_ROOT / "benchmarks"
needs_scripts = pytest.mark.skipif(not SCRIPTS.is_dir(), reason="benchmarks are in the checkout only")


def printed_result(script: str, *arguments: str, seconds: float, path: str = str(PROJECT_ROOT)) -> dict[str, Any]:
    """Run a script on one thread and without a GPU; return the JSON that it prints.

    Args:
        script: Name in benchmarks/.
        arguments: Words of its command line.
        seconds: Limit of its time.
        path: Its PYTHONPATH.
    """
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result
