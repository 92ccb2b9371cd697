"""A rank of a training that does not end: it says that it is there, and writes progress once all ranks are."""

import os
import sys
import time
from pathlib import Path

from iot_pipeline.training.config import read_config

if __name__ == "__main__":
    out = read_config(Path(sys.argv[1])).out
    (out / f"rank.{os.environ['RANK']}").touch()
    while True:
        if os.environ["RANK"] == "0" and len([*out.glob("rank.*")]) == int(os.environ["WORLD_SIZE"]):
            with (out / "progress.jsonl").open("a") as lines:
                lines.write('{"step": 1, "steps": 2, "loss": 1.0}\n')
        time.sleep(0.1)
