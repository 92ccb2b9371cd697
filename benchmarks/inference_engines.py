"""How many flows a second does a student classify by each engine, and what is that beside the prior work's way?

    .venv/bin/python benchmarks/inference_engines.py --lake data_lake/farm_flow-demo --threads 1

Runs the product's own benchmark (the asset `inference_benchmark`) on a finished lake, in one process, contenders in
turn, and on flows of all sides: the labels of engines are compared with the reference's, not with the truth. Ratios
are by seconds of the processor, which other programs on the machine change little; those of the clock stand beside.
Writes benchmarks/results/inference_engines.json.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from result import save

from iot_pipeline.commands.checkpoint import find
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.inference.benchmark import benchmark_variants
from iot_pipeline.lake.store import ArtefactId, Lake
from iot_pipeline.sft.tasks import asked
from iot_pipeline.vocabulary import Trained


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, required=True)
    parser.add_argument("--dataset", default="farm_flow")
    parser.add_argument("--stage", default="10K")
    parser.add_argument("--track", default="original")
    parser.add_argument("--seed", type=int, default=2027, help="training seed of the student")
    parser.add_argument("--flows", type=int, default=2048, help="distinct flows whose labels are compared")
    parser.add_argument("--seconds", type=float, default=20.0, help="limit of one variant")
    parser.add_argument("--threads", type=int, default=None)
    chosen = parser.parse_args()
    lake = Lake(chosen.lake, read_only=True)
    student = find(lake, chosen.stage, Trained(chosen.seed, chosen.track))
    texts = pd.read_parquet(lake.verified(ArtefactId("flow_texts")) / "texts.parquet")["text"]
    records = pd.read_parquet(lake.verified(ArtefactId("evaluation_split")) / "records.parquet")
    random = np.random.default_rng(0)
    distinct = [
        asked(text, "explain", "explain") for text in texts.iloc[random.permutation(len(texts))[: chosen.flows]]
    ]
    share = float(len(records) / records["rows"].sum())  # distinct flows and labels of a row
    repeated = [distinct[place] for place in random.integers(0, max(1, int(share * 512)), 512)]
    found = benchmark_variants(
        student.base,
        student.adapter,
        distinct,
        load_spec(chosen.dataset).classes,
        repeated,
        seconds=chosen.seconds,
        threads=chosen.threads,
        log=lambda text: print(text, file=sys.stderr),
    )
    head = {"question": "flows a second by engine, beside the prior work's way", "student": str(student.artefact)}
    told = {"made_with": student.labels, "flows": len(distinct), "threads": chosen.threads}
    save("inference_engines", head | told | found)


if __name__ == "__main__":
    main()
