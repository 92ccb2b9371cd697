"""How should the paper's profile teach the class? Students that differ in one choice, judged on the validation side.

    IOT_DATASET=rt_iot2022 IOT_SOURCE=RT_IOT2022.csv.zip python benchmarks/paper_profile.py

The choices of `iot_pipeline/profiles/paper.yaml`: weight of the label's tokens or class rows, and length of answers
(the form of a flow's text is in serialisations.py). No base of 1.5B parameters can be trained on a CPU, so the tiny
base is, with the demo's learning rate and rank, on stage 10K of the original track: it tells which choice is better
for it, and no accuracy of Qwen2.5. Answers of 900 words, as the paper's, do not fit either; 45 and 120 show what
length does. A stopped run goes on from the arms that it has.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from result import RESULTS, save

from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.settings import load_settings
from iot_pipeline.vocabulary import Trained

FALLING = {"IOT_CLASS_ROWS": "0", "IOT_CLASS_COPIES": "0"}
CLASS_ROWS = {"IOT_CLASS_ROWS": "32", "IOT_CLASS_COPIES": "8"}  # as many as explained rows, as in the profile
ARMS: dict[str, dict[str, str]] = {
    "rows as they fall, label weight 1": FALLING,
    "rows as they fall, label weight 8": FALLING | {"IOT_LABEL_WEIGHT": "8"},
    "class rows": CLASS_ROWS,
    "120 words, rows as they fall, label weight 1": FALLING | {"IOT_EXPLANATION_WORDS": "120"},
    "120 words, class rows": CLASS_ROWS | {"IOT_EXPLANATION_WORDS": "120"},
}
COMMON = {
    "IOT_PROFILE": "demo", "IOT_STAGES": "10K", "IOT_TRACKS": "original", "IOT_FACTS": "plain",
    "IOT_SERIALISATION": "values", "IOT_EXPLANATION_WORDS": "45", "IOT_MAX_LENGTH": "2048",
}  # fmt: skip


def main() -> None:
    """Train and score each arm that the result lacks, saving after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, default=Path("data_lake/paper_profile"), help="lake of these trials")
    lake = parser.parse_args().lake.absolute()
    chosen = load_settings()
    name = f"paper_profile-{chosen.data.dataset}"
    file = RESULTS / f"{name}.json"
    same = {"seeds": [chosen.seeds[0]], "common": COMMON}  # arms of other trials are not gone on with
    before = json.loads(file.read_text()) if file.is_file() else {}
    arms: dict[str, Any] = before["arms"] if {key: before.get(key) for key in same} == same else {}
    for arm, own in ARMS.items():
        if arm not in arms:
            run(lake, own)
            arms[arm] = {"settings": own} | measured(lake, chosen.seeds[0])
            save(
                name,
                {
                    "question": "how the paper's profile should teach the class",
                    "side": "validation",
                    **same,
                    "arms": arms,
                },
            )


def run(lake: Path, own: dict[str, str]) -> None:
    """Make the lake's student of stage 10K and its metrics under the settings of an arm; SystemExit if that fails."""
    environment = os.environ | COMMON | own | {"IOT_LAKE": str(lake)}
    subprocess.run(
        [sys.executable, "-m", "iot_pipeline", "run", "--until", "eval_metrics_10K"], env=environment, check=True
    )


def measured(lake: Path, seed: int) -> dict[str, Any]:
    """Return the validation figures of the lake's student, and what its training read."""
    of = Trained(seed, "original").key
    metrics = Lake(lake).folder(ArtefactId("eval_metrics_10K", of)) / "eval.json"
    training = json.loads((Lake(lake).folder(ArtefactId("lora_checkpoint_10K", of)) / "training.json").read_text())
    found = json.loads(metrics.read_text())["validation"]["views"]["distinct"]
    return {
        "accuracy": [found["accuracy"], *found["intervals"]["accuracy"]],
        "macro_f1": [found["macro_f1"], *found["intervals"]["macro_f1"]],
        "lowest_recall": min(one["recall"] for one in found["per_class"].values()),
        "flows": found["records"],
        "steps": training["facts"]["steps"],
        "tokens_read": training["facts"]["tokens_read"],
        "train_seconds": training["timings"]["train_seconds"],
    }


if __name__ == "__main__":
    main()
