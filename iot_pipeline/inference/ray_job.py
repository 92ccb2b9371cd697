"""A batch on a Ray cluster (IOT_RAY_ADDRESS): a job that reads and writes files which all nodes share.

It is submitted through Ray's Jobs API, as trainings are, and ends with the process that submitted it.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from iot_pipeline.errors import UserError
from iot_pipeline.inference.ray_blocks import Pool, Work, answer_missing, block_files
from iot_pipeline.inference.ray_session import QUIET, ray_package
from iot_pipeline.lake.atomic import write_bytes, write_text
from iot_pipeline.training.ray_job import end_without
from iot_pipeline.training.ray_launch import connected, ended, hand_over, signs_of_life

MODULE = "iot_pipeline.inference.ray_job"
LOOKED_EVERY_S = 5.0
Log = Callable[[str], None]


def answer_there(source: Path, out: Path, work: Work, pool: Pool, rows: int, log: Log) -> None:
    """Answer the missing blocks of a file by a job on the cluster of `pool.address`, and wait for its end.

    Args:
        source: File with the columns of `work`, on storage that all nodes share.
        out: Folder of the blocks, on such storage too.
        work: Work of the replicas.
        pool: Replicas.
        rows: Flow groups of a block.
        log: Called with progress messages.

    Raises:
        UserError: The cluster does not answer, or the job fails.
    """
    ray_package()
    from ray import cloudpickle

    assert pool.address is not None
    source, out = source.absolute(), out.absolute()
    client, name = connected(pool.address), f"iot-{secrets.token_hex(8)}"
    content = cloudpickle.dumps((work, replace(pool, address="auto", cards=None), rows))
    write_bytes(out / f"{name}.work", content)
    write_text(out / f"{name}.lease", "0")
    digest = hashlib.sha256(content).hexdigest()
    try:
        with signs_of_life(out / f"{name}.lease"):
            hand_over(client, name, ["python", "-m", MODULE, str(source), str(out), name, digest], QUIET)
            _follow(client, name, out, block_files(source, out, rows), log)
    finally:
        with contextlib.suppress(Exception):
            client.stop_job(name)  # does nothing if it has ended
        for left in out.glob(f"{name}.*"):
            left.unlink(missing_ok=True)


def _follow(client: Any, name: str, out: Path, files: Sequence[Path], log: Log) -> None:
    """Tell the progress of the job until it ends; UserError if it failed."""
    told, looked = -1, 0.0

    def tell() -> None:
        nonlocal told, looked
        if time.monotonic() - looked <= LOOKED_EVERY_S:
            return
        looked = time.monotonic()
        if (done := sum(path.is_file() for path in files)) != told:
            told = done
            log(f"{done:,} of {len(files):,} blocks on the Ray cluster")

    status = ended(client, name, tell)
    if str(status.value) == "SUCCEEDED":
        return
    failed = out / f"{name}.error"
    if failed.is_file():
        raise UserError(failed.read_text(encoding="utf-8"))
    lines = str(client.get_job_info(name).message or "").strip().splitlines()[-3:]
    raise UserError(
        f"the Ray job {name} ended as {status.value}: {' | '.join(lines)[:500]}; do all nodes have {out}, and the "
        "packages of this project?"
    )


def main(arguments: Sequence[str]) -> int:
    """Answer the missing blocks that the files of a submitter describe; exit code 0, or 2 after a user's error."""
    ray_package()
    from ray import cloudpickle

    source, out, name, digest = Path(arguments[0]), Path(arguments[1]), arguments[2], arguments[3]
    threading.Thread(target=end_without, args=(out / f"{name}.lease",), daemon=True).start()
    try:
        content = (out / f"{name}.work").read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise UserError(f"{out / name}.work is not what was submitted")
        work, pool, rows = cloudpickle.loads(content)
        answer_missing(source, out, work, pool, rows, lambda text: print(text, flush=True))
    except UserError as error:
        write_text(out / f"{name}.error", str(error))
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
