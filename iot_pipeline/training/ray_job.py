"""Job of a training on Ray: starts the workers, forwards their lines, and on a cluster ends with who submitted it."""

import _thread
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from iot_pipeline.training.config import TrainConfig
from iot_pipeline.training.ray_worker import ERROR, LINE, Relay, work

LEASE_S = 30.0  # seconds without a sign of life after which the job ends
RESTARTS = 5  # of all workers after one was lost or failed; preempted nodes do not count


class Request(BaseModel):
    """Request for one job. Paths are those of a file system that all nodes share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="id of the job; lines of its output that begin with it are its reports")
    configs: list[TrainConfig] = Field(min_length=1, description="trainings, one after the other")
    workers: int = Field(ge=1, description="processes of a training")
    gpus: float | None = Field(None, ge=0, le=1, description="GPUs of a worker; None: one where the cluster has any")
    cpus: int = Field(ge=1, description="CPUs that are reserved for a worker")
    local: bool = Field(False, description="is the cluster this machine, which gets no further nodes")
    lease: Path = Field(description="file that changes while the job is wanted")


def main(arguments: list[str] | None = None) -> int:
    """Run the job that the command line describes as JSON; exit code 0, or 1 after the reported error."""
    request = Request.model_validate_json((arguments or sys.argv[1:])[0])
    threading.Thread(target=end_without, args=(request.lease,), daemon=True).start()
    return run(request, lambda kind, text: say(request.name, kind, text))


def say(name: str, kind: str, text: str) -> None:
    """Write one report as a line of the job's output, in one piece."""
    sys.stdout.write(f"{name} {json.dumps([kind, text])}\n")
    sys.stdout.flush()


def end_without(lease: Path) -> None:
    """End this process, and with it all of its workers, once the lease is gone or has not changed for LEASE_S.

    The time is this machine's alone, so clocks may differ. A submitter that was killed cannot stop its job; the next
    one for the same training removes the lease.
    """
    seen, since = "", time.monotonic()
    while time.monotonic() - since < LEASE_S:
        time.sleep(2.0)
        try:
            text = lease.read_text()
        except FileNotFoundError:
            break
        except OSError:  # a file server that is away
            continue
        if text != seen:
            seen, since = text, time.monotonic()
    print(f"{lease} is gone, or shows no sign of life for {LEASE_S:.0f} s: the job ends", flush=True)
    os._exit(3)


def run(request: Request, tell: Callable[[str, str], None]) -> int:
    """Train as requested, on the Ray that this process has started or is a job of; return the exit code.

    A user's error, 2, would come back after each restart: as soon as a worker reports it, the training is left.
    """
    import ray
    from ray.train import TrainingFailedError

    ray.init(logging_level=logging.WARNING, ignore_reinit_error=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own handler ends without a clean-up
    gpus = gpus_of(request, ray.cluster_resources().get("GPU", 0.0), tell)
    if gpus is None:
        return 2
    relay = relay_here()
    forwarding = Forwarding(relay, tell)
    try:
        with forwarding:
            trainer_of(request, gpus, relay).fit()
    except TrainingFailedError as error:
        tell(ERROR, f"training on Ray failed for good after {RESTARTS} restarts: {cause_of(error)}")
        return 1
    except KeyboardInterrupt:
        if not forwarding.failed:
            raise
        return 2
    return 0


def relay_here() -> Any:
    """Start the actor that keeps the workers' reports, on this process's node: another may be lost, or given back."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Relay).options(num_cpus=0, scheduling_strategy=here).remote()


def trainer_of(request: Request, gpus: float, relay: Any) -> Any:
    """Return Ray Train's trainer of the request, whose workers have `gpus` GPUs each and report to `relay`."""
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig

    run_config: Any = RunConfig(  # TorchTrainer's own types name the one of before V2
        name=request.name,
        storage_path=str(request.configs[0].out),
        failure_config=FailureConfig(max_failures=RESTARTS),
        # A worker without a GPU must not see those of its node.
        worker_runtime_env={} if gpus else {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}},
    )
    return TorchTrainer(
        work,
        train_loop_config={"configs": [config.model_dump(mode="json") for config in request.configs], "relay": relay},
        scaling_config=ScalingConfig(
            num_workers=request.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": request.cpus, **({"GPU": gpus} if gpus else {})},
        ),
        run_config=run_config,
    )


def gpus_of(request: Request, there: float, tell: Callable[[str, str], None]) -> float | None:
    """Return the GPUs of a worker; None after an error if they can never be had.

    Args:
        request: The job.
        there: GPUs of the cluster now.
        tell: Called with reports.
    """
    gpus = request.gpus if request.gpus is not None else float(there > 0)
    wanted = gpus * request.workers
    if request.gpus is None and not there:
        tell(LINE, "the cluster has no GPU: workers compute on CPUs (IOT_RAY_GPUS=1 waits for nodes with GPUs)")
    if wanted > there and request.local:
        tell(ERROR, f"{request.workers} workers of {gpus:g} GPUs, but there are {there:g} here: lower IOT_PROCESSES")
        return None
    if wanted > there:
        tell(LINE, f"waiting for {wanted:g} GPUs: the cluster has {there:g} now")
    return gpus


def cause_of(error: Exception) -> str:
    """Return the last line of the first worker's failure, which names the exception."""
    failures = getattr(error, "worker_failures", {})
    first: BaseException = next(iter(failures.values()), error)
    lines = str(first).strip().splitlines()
    return lines[-1] if lines else type(first).__name__


class Forwarding:
    """Thread that forwards reports of the workers while a block runs, and interrupts it at an error of the user."""

    def __init__(self, relay: Any, tell: Callable[[str, str], None]) -> None:
        self.failed = False
        self._relay, self._tell, self._over = relay, tell, threading.Event()
        self._thread = threading.Thread(target=self._forward, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _forward(self) -> None:
        import ray

        over = False
        while not over:
            over = self._over.wait(0.5)  # the last reports are taken after the end
            for kind, text in ray.get(self._relay.take.remote()):
                self._tell(kind, text)
                self.failed = self.failed or kind == ERROR
            if self.failed and not over:
                _thread.interrupt_main(signal.SIGTERM)
                return


if __name__ == "__main__":
    raise SystemExit(main())
