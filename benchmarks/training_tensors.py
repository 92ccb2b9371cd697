"""Do the tensors of a real lake keep what training promises, with the tiny tokenizer and with a real one?

    make run && .venv/bin/python benchmarks/training_tensors.py [--lake LAKE] [--tokenizer FOLDER_OR_ID]

For every training split in the lake: rows cut, rows whose label tokens and exactly one end of turn are supervised,
rows with prompt tokens in the loss, padding of the batches (bar: 5 %), and how far the loss of packed rows is
from that of the same rows one by one (bar: 1e-3 a token). With `--tokenizer` the same rows are tokenised anew by that
one, without a loss: there is no model to it. What the old cut at 512 tokens does to answers of the prior work's
length, and this project's tensors do to the same ones, is read off the lake's audit (IOT_AUDIT_TOKENIZER).
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from result import save

from iot_pipeline.lake.store import Lake
from iot_pipeline.models.tokenizer import load_tokenizer
from iot_pipeline.settings import load_settings
from iot_pipeline.sft.check import check_tensors
from iot_pipeline.sft.tensors import Tensors, build_tensors, load_tensors
from iot_pipeline.training.data import Batches, causal_loss, make_plan

COMPARED = 64  # rows whose packed loss is compared
PACK_ROWS = 8  # rows that a pack has room for, of the longest


def main() -> None:
    """Write benchmarks/results/training_tensors-<lake>.json and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, default=load_settings().lake_path, help="lake to read")
    parser.add_argument("--tokenizer", help="folder or hub id of a real tokenizer")
    chosen = parser.parse_args()
    lake = Lake(chosen.lake.absolute())
    base = lake.root / "base_model" / "model"
    found: dict[str, Any] = {}
    for artefact in (a for a in lake.artefacts() if a.belongs_to("training_split")):
        folder = lake.folder(artefact)
        tiny = load_tokenizer(str(base))
        found[str(artefact)] = {"tiny": promises(folder / "train.safetensors", tiny) | packing(folder, base, tiny)}
        if chosen.tokenizer:
            found[str(artefact)]["real"] = retokenised(folder / "train.jsonl", load_tokenizer(chosen.tokenizer))
    audit = json.loads((lake.root / "paper_protocol" / "paper_protocol.json").read_text())
    save(f"training_tensors-{lake.root.name}", {
        "question": "what the tensors of every training split keep, counted in the files", "splits": found,
        "answers_of_the_papers_length": {
            "tokenizer": Path(audit["tokenizer"]).name, "cut_at_512": audit["long_answers"],
            "by_this_project": audit["long_answers_by_ours"],
        },
        "real_tokenizer": Path(chosen.tokenizer).name if chosen.tokenizer else None,
    })  # fmt: skip


def promises(file: Path, tokenizer: Any) -> dict[str, Any]:
    """Counts of a tensor file and the padding of its batches in one pass over the rows."""
    used = load_settings()
    check = check_tensors(file, tokenizer, used.student.max_length)
    tensors, rows = load_tensors(file), used.student.step_rows
    batches = Batches(tensors, tokenizer, used.run.micro_rows or rows)
    plan = make_plan(tensors.lengths, rows, 1.0, None, used.data.seed)
    for step in range(plan.steps):
        for _ in batches.of(plan.rows_of(step)):
            pass
    return {"passed": not check.problems, "problems": check.problems, **check.stats.plain(),
            "tokens_a_row": round(float(tensors.lengths.mean()), 1),
            "padding_share": round(batches.padding_share(), 4)}  # fmt: skip


def retokenised(jsonl: Path, tokenizer: Any) -> dict[str, Any]:
    """`promises` of the rows of a split under another tokenizer."""
    rows = [json.loads(line) for line in jsonl.read_text().splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        build_tensors(rows, tokenizer, load_settings().student.max_length, Path(folder) / "t.safetensors")
        return promises(Path(folder) / "t.safetensors", tokenizer)


def packing(folder: Path, base: Path, tokenizer: Any) -> dict[str, Any]:
    """Mean loss a supervised token of the same rows one by one and packed, by the base model."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    whole = load_tensors(folder / "train.safetensors")
    stop = int(whole.offsets[COMPARED]) if len(whole) > COMPARED else len(whole.input_ids)
    rows = Tensors(whole.input_ids[:stop], whole.labels[:stop], whole.offsets[: COMPARED + 1])
    losses = {}
    with torch.no_grad():
        for way, pack_tokens in (("one_by_one", None), ("packed", PACK_ROWS * int(rows.lengths.max()))):
            batches = Batches(rows, tokenizer, 1, pack_tokens=pack_tokens)
            every = np.arange(len(rows))
            total = sum(float(causal_loss(model, *batch)) for batch in batches.of(every))
            losses[way] = total / batches.weight_total(every)
    return {"loss": losses, "packed_minus_one_by_one": losses["packed"] - losses["one_by_one"]}


if __name__ == "__main__":
    main()
