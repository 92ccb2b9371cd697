"""Connection to Ray, which is optional: the cluster of a job, or a Ray of this process alone."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.training.local_ray import is_running, local_ray, starting

MISSING = "Ray is not installed: pip install -e '.[ray]', or do without IOT_BATCH=ray and --replicas"
OBJECT_STORE_BYTES = 2**30  # of a Ray started here
# No telemetry; and no lines of Ray's own on standard error, such as on actors that can be restarted.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1", "RAY_BACKEND_LOG_LEVEL": "fatal"}


@dataclass(frozen=True)
class Cluster:
    """Machines with CPUs that Ray offers, the CPUs of the smallest of them, and all GPUs together."""

    machines: int
    least_cpus: float
    gpus: float


def ray_package() -> Any:
    """Import Ray without its telemetry; UserError if it is not installed."""
    os.environ.update(QUIET)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(f"{MISSING} ({error})") from None
    return ray


@contextlib.contextmanager
def connected(address: str | None, cards: Sequence[str] | None = None) -> Iterator[Cluster]:
    """Connect to Ray for a `with` block; a connection that this process has already is used, and stays.

    Args:
        address: `auto` in a job of a cluster; None to start a Ray here, which ends with the block.
        cards: GPUs that a Ray started here may use, as CUDA_VISIBLE_DEVICES names them; None for all.

    Raises:
        UserError: Ray is not installed, does not start, or has no CPUs.
    """
    os.environ.update(QUIET)  # before Ray is imported, which reads them
    with contextlib.ExitStack() as stack:
        if not is_running():
            here = local_ray(OBJECT_STORE_BYTES, cards=cards, log=False) if address is None else _joined(address)
            stack.enter_context(here)
        ray = ray_package()
        _silence(ray)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus = [node["CPU"] for node in nodes if node.get("CPU")]
        if not cpus:
            raise UserError("the Ray cluster has no machine with CPUs now: start its workers")
        yield Cluster(len(cpus), min(cpus), sum(node.get("GPU", 0) for node in nodes))


@contextlib.contextmanager
def _joined(address: str) -> Iterator[None]:
    """Join a cluster for a `with` block."""
    ray = ray_package()
    try:
        with starting("for this job"):
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        yield
    finally:
        ray.shutdown()


def _silence(ray: Any) -> None:
    """Switch Ray Data's progress bars and reports off: callers tell the progress."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.enable_operator_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
