"""Does going through the stages help? 10K then 30K against 30K at once, after reading equally many tokens.

    IOT_STAGES=10K,30K make run && .venv/bin/python benchmarks/progressive.py

`at_once`: the base, trained on stage 30K for one pass. `progressive`: the lake's 10K adapter, trained on stage 30K for
as many tokens as that pass has left after those the adapter has read. Same base, recipe, rows and test flows; the
difference of accuracy on distinct test flows with a paired cluster-bootstrap interval and McNemar's test.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from result import save

from iot_pipeline.evaluation.evaluate import compare_predictions
from iot_pipeline.flows.dataset import side_records, side_texts
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.inference.student import Student
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import load_settings
from iot_pipeline.training import launch
from iot_pipeline.training.config import TrainConfig
from iot_pipeline.vocabulary import Trained, staged


def main() -> None:
    """Train both, compare, write benchmarks/results/progressive-<lake>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, default=load_settings().lake_path, help="lake with stages 10K and 30K")
    parser.add_argument("--track", default="original")
    chosen = parser.parse_args()
    lake: Path = chosen.lake.absolute()
    first = read_training(lake, "10K", chosen.track)
    whole = read_training(lake, "30K", chosen.track)
    spent, all_tokens = first["facts"]["tokens_read"], whole["facts"]["tokens_read"]
    with tempfile.TemporaryDirectory() as folder:
        made = {
            "at_once": train(lake, chosen.track, whole["config"], Path(folder) / "at_once", all_tokens, None),
            "progressive": train(
                lake,
                chosen.track,
                whole["config"],
                Path(folder) / "progressive",
                all_tokens - spent,
                student(lake, "lora_checkpoint_10K", chosen.track),
            ),
        }
        tokens = {name: facts["tokens_read"] + (spent if name == "progressive" else 0) for name, facts in made.items()}
        test = compare(lake, {name: Path(folder) / name for name in made})
    save(
        f"progressive-{lake.name}",
        {
            "question": "10K then 30K against 30K at once, after equally many tokens",
            "track": chosen.track,
            "tokens": tokens,
            "validation_loss": {name: facts["validation_loss"] for name, facts in made.items()},
            "progressive_minus_at_once": test,
        },
    )


def student(lake: Path, asset: str, track: str) -> Path:
    """Folder of a student, or of what was measured of it."""
    return Lake(lake).folder(ArtefactId(asset, Trained(load_settings().seeds[0], track).key))


def read_training(lake: Path, stage: str, track: str) -> dict[str, Any]:
    """training.json of a checkpoint."""
    folder = student(lake, staged("lora_checkpoint", stage), track)
    result: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return result


def train(lake: Path, track: str, recipe: dict[str, Any], out: Path, tokens: int, start: Path | None) -> dict[str, Any]:
    """Facts of one training on stage 30K."""
    split = lake / "training_split_30K" / track
    given = recipe | {
        "base": str(lake / "base_model" / "model"),
        "tensors": split / "train.safetensors",
        "warm_start": start,
        "validation": split / "validation.safetensors",
        "out": out,
        "max_tokens": tokens,
    }
    config = TrainConfig(**given)
    processes = launch.processes_here(tiny=True)
    subprocess.run(
        launch.command(config.write(out / "config.json"), processes),
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, **launch.environment(config.base, processes)},
    )
    facts: dict[str, Any] = json.loads((out / "training.json").read_text())["facts"]
    return facts


def compare(lake: Path, adapters: dict[str, Path]) -> dict[str, Any]:
    """Paired test of the two on distinct test flows."""
    used = json.loads(next((lake / "eval_metrics_30K").glob("*/*/manifest.json")).read_text())["settings"]
    spec = load_spec(used["setting dataset"])
    records = lake / "evaluation_split" / "records.parquet"
    flows = side_texts(lake / "flow_texts" / "texts.parquet", records, "test")
    prompts = flows["text"].tolist()
    found = {}
    for name, adapter in adapters.items():
        student = Student.load(lake / "base_model" / "model", adapter)
        found[name] = (flows["flow_group"].tolist(), student.score_labels(prompts, spec.classes))
    return compare_predictions(
        side_records(records, "test"), found["progressive"], found["at_once"], spec.classes, used["setting seed"]
    )


if __name__ == "__main__":
    main()
