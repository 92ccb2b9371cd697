"""How fast does a GPU train students by the old recipe, ours and TRL's, and how good is SmolLM2 at 10K and 30K?

    python benchmarks/gpu_student.py --prepare bundle            # any machine; a lake with answers of these stages
    python benchmarks/gpu_student.py --run bundle --out results  # the GPU machine: one run of 9 minutes at most

`--prepare` reads the lake of the IOT_ settings (or `--lake`): tensors by SmolLM2's tokenizer, distinct test flows, and
its GGUF in parts. `--run` needs torch, transformers, peft, pandas, pyarrow, scipy, psutil, safetensors, pydantic,
PyYAML and gguf, but no network, Dagster, DuckDB or teacher. Where a transfer is limited, carry the bundle without its
`gguf` folder, then the parts in turn, and name their folder with `--gguf`. Measured are, each within its share of
`--seconds`: training's speed and MFU by gpu_training.py, for the shapes of Qwen2.5-1.5B and SmolLM2 with random
weights; SmolLM2 itself, trained by the product on each stage's rows for as many steps as fit, with accuracy and
macro-F1 on distinct flows; and the share of faultless explanations in free writing. A part without time is named as
skipped. Writes gpu_student.json into `--out` after each part, and prints it at the end.
"""

import argparse
import json
import lzma
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import gpu_training
import numpy as np
from time_shares import Found, Part, carry_out, teller

SECONDS = 520.0  # 20 of 9 minutes are left for imports and for what is killed
CLASS_ROWS = 48  # as the recipe has them
SCORED = 0.25  # share of a student's time that is kept for loading and scoring
WARM_UP, TIMED = 3, 5  # steps
PACKAGES = ("torch", "transformers", "peft", "trl", "flash-attn", "tokenizers", "numpy")
WRITTEN = ("explained", "faultless", "numbers_grounded", "values_true", "schema_valid", "ended", "words_mean")
RESULT = "gpu_student.json"


def main() -> None:
    """Prepare a bundle, or measure and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_mutually_exclusive_group(required=True)
    ways.add_argument("--prepare", type=Path, help="folder of the bundle to make")
    ways.add_argument("--run", type=Path, help="folder of the bundle to measure with")
    parser.add_argument("--base", type=Path, help="folder of a base in place of SmolLM2")
    parser.add_argument("--gguf", type=Path, help="its GGUF, or the folder of its parts; default: package, bundle")
    making = parser.add_argument_group("--prepare")
    making.add_argument("--lake", type=Path)
    making.add_argument("--stages", nargs="+", default=["10K", "30K"])
    making.add_argument("--arm", default="original", help="track or control whose rows are learnt")
    making.add_argument("--learning-rate", type=float, default=1e-3)
    making.add_argument("--max-length", type=int, default=2048, help="tokens of the longest row; none is cut")
    making.add_argument("--part-mib", type=float, default=48, help="most MiB of a part of the GGUF")
    running = parser.add_argument_group("--run")
    running.add_argument("--out", type=Path, default=Path())
    running.add_argument("--seconds", type=float, default=SECONDS, help="seconds of all parts together")
    running.add_argument("--speed-steps", type=int, default=6, help="timed steps of each way")
    running.add_argument("--shapes", nargs="+", default=["qwen2.5-1.5b", "smollm2-135m"])
    running.add_argument("--explained", type=int, default=256, help="most test flows to explain")
    chosen = parser.parse_args()
    if chosen.prepare:
        from gpu_bundle import prepare

        prepare(chosen)
    else:
        print(json.dumps(measured(chosen), indent=1))


def measured(chosen: argparse.Namespace) -> Found:
    """Measure all parts within the time; the result so far is written after each."""
    chosen.out.mkdir(parents=True, exist_ok=True)
    told = json.loads((chosen.run / "bundle.json").read_text())
    names = ("dataset", "arm", "base", "recipe", "stages", "made_with", "prepared_by_commit")
    head = {
        "question": "speed of training by three recipes, and SmolLM2's accuracy, on one GPU",
        "bundle": {name: told[name] for name in names},
        "seconds_given": chosen.seconds,
        "versions": {name: installed(name) for name in PACKAGES},
    }

    tell = teller(chosen.out / RESULT, head)
    with tempfile.TemporaryDirectory() as work:
        started = time.monotonic()
        import peft  # noqa: F401  loaded once: forked processes share it, and none has touched a GPU yet

        left = chosen.seconds - (time.monotonic() - started)
        return tell(carry_out(parts_of(told, chosen, Path(work)), left, tell))


def installed(name: str) -> str | None:
    """Version of a package; None without it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def parts_of(told: Found, chosen: argparse.Namespace, work: Path) -> list[Part]:
    """The parts in order; shares are about the seconds of a run of 9 minutes."""

    def on_bundle(measure: Callable[..., Found], *more: Any) -> Callable[[float], Found]:
        return partial(measure, told, chosen, work, *more)

    parts = [Part("base", 25, 5, on_bundle(unpacked))]
    for shape, share in zip(chosen.shapes, (28, 16), strict=False):
        for way in gpu_training.WAYS:
            parts.append(Part(f"speed {shape} {way}", share, 8, on_bundle(speed, shape, way)))
    parts += [Part(f"student {stage}", 140, 20, on_bundle(student, stage)) for stage in told["stages"]]
    return [*parts, Part("free writing", 40, 10, on_bundle(free_writing))]


def unpacked(told: Found, chosen: argparse.Namespace, work: Path, _seconds: float) -> Found:
    """Unpack tensors, join and convert SmolLM2's GGUF, and check that its tokenizer made the tensors."""
    from gguf_parts import join

    from iot_pipeline.errors import UserError
    from iot_pipeline.lake.atomic import sha256_file
    from iot_pipeline.models.smollm2 import convert
    from iot_pipeline.models.tokenizer import encode, load_tokenizer, prompt_text

    for packed in sorted(chosen.run.glob("*/*.safetensors.xz")):
        target = work / packed.parent.name / packed.stem
        target.parent.mkdir(exist_ok=True)
        with lzma.open(packed) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out)
    base = base_of(chosen, work)
    if not chosen.base:
        given = chosen.gguf or chosen.run / "gguf"
        whole = join(given, work / "whole.gguf") if given.is_dir() else given
        if (found := sha256_file(whole)) != told["base"].get("sha256"):
            raise UserError(f"{given}: sha256 {found}; the bundle was made for {told['base']}")
        convert(whole, base)
    tokenizer = load_tokenizer(base)
    if encode(tokenizer, [prompt_text(tokenizer, told["probe"]["text"])])[0] != told["probe"]["ids"]:
        raise UserError(f"{base}: its tokenizer is not the one that made the bundle's tensors")
    return {"base": told["base"]}


def base_of(chosen: argparse.Namespace, work: Path) -> Path:
    """Folder of the base."""
    return Path(chosen.base or work / "base")


def speed(told: Found, chosen: argparse.Namespace, work: Path, shape: str, way: str, seconds: float) -> Found:
    """Tokens a second and MFU of one way of training a shape with random weights."""
    given = {"shape": shape, "steps": chosen.speed_steps, "pack_tokens": 4096, "class_rows": CLASS_ROWS}
    return gpu_training.measure(way, argparse.Namespace(**given))


def student(told: Found, chosen: argparse.Namespace, work: Path, stage: str, seconds: float) -> Found:
    """Train on a stage's rows for as many steps as fit, and score validation and test flows."""
    from iot_pipeline.inference.student import Student
    from iot_pipeline.training.config import TrainConfig
    from iot_pipeline.training.train import run

    started = time.monotonic()
    folder, base = work / stage, base_of(chosen, work)
    if not (folder / "train.safetensors").is_file():
        return {"skipped": "base and tensors could not be unpacked"}
    classes = folder / "classes.safetensors" if told["recipe"]["class_rows"] else None
    files = {"base": str(base), "tensors": folder / "train.safetensors", "classes": classes, "out": folder / "student"}
    config = TrainConfig(**told["recipe"], **files)
    one, whole = step_seconds(config)
    fitting = int((seconds * (1 - SCORED) - (time.monotonic() - started)) / one)
    if fitting < whole / 10:
        return {"skipped": f"{fitting} of the recipe's {whole} steps of {one:.2f} s would fit"}
    steps = min(whole, fitting)
    trained = run(config.model_copy(update={"max_steps": steps}))
    begun = time.monotonic()
    model = Student.load(base, config.out)
    scored = {side: scored_side(told, chosen, model, side, stage) for side in ("validation", "test")}
    facts, timings = trained["facts"], trained["timings"]
    return {
        "device": trained["machine"]["device"],
        "steps": steps,
        "steps_of_recipe": whole,
        "step_seconds_before": round(one, 4),
        **{name: facts[name] for name in ("tokens_read", "rows_read", "class_rows_read", "first_loss", "final_loss")},
        **{
            name: timings[name] for name in ("tokens_per_second", "mfu", "memory_gib", "train_seconds", "padding_share")
        },
        "scoring_seconds": round(time.monotonic() - begun, 2),
        **scored,
    }


def step_seconds(config: Any) -> tuple[float, int]:
    """(median seconds of a step, steps of the whole recipe), from a few steps that are thrown away."""
    import gc

    import torch

    from iot_pipeline.training.train import optimise, setup

    training = setup(config, None)
    training.model.train()
    taken = []
    for _ in range(WARM_UP + TIMED):
        begun = time.perf_counter()
        training.progress.losses.append(optimise(training, 1e-9))  # its loss is read, so the step has ended
        taken.append(time.perf_counter() - begun)
    steps = training.plan.steps
    del training
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return float(np.median(taken[WARM_UP:])), steps


def scored_side(told: Found, chosen: argparse.Namespace, model: Any, side: str, stage: str) -> Found:
    """Accuracy and macro-F1 on the distinct flows of a side; its predictions are written for paired tests."""
    import pandas as pd

    from iot_pipeline.evaluation.evaluate import evaluate_predictions
    from iot_pipeline.evaluation.predictions import write_predictions
    from iot_pipeline.sft.tasks import asked

    records = pd.read_parquet(chosen.run / f"{side}-records.parquet")
    flows, classes = pd.read_parquet(chosen.run / f"{side}-texts.parquet"), told["classes"]
    prompts = [asked(text, "classify", told["tasks"]) for text in flows["text"]]
    scores = model.score_labels(prompts, classes, batch_tokens=8192 if model.device.type == "cpu" else 131_072)
    groups = flows["flow_group"].tolist()
    write_predictions(chosen.out / f"predictions-{stage}-{side}.parquet", groups, scores, classes)
    view = evaluate_predictions(records, groups, scores, classes, told["seed"])["views"]["distinct"]
    names = ("accuracy", "macro_f1", "log_loss")
    return {"flows": len(groups), **{name: view[name] for name in names}, "intervals": view["intervals"]}


def free_writing(told: Found, chosen: argparse.Namespace, work: Path, seconds: float) -> Found:
    """Share of faultless explanations of the last student, on as many test flows as fit."""
    import pandas as pd

    from iot_pipeline.evaluation.explanations import score_explanations
    from iot_pipeline.evaluation.predictions import write_explanations
    from iot_pipeline.inference.student import Student, room_for
    from iot_pipeline.sft.tasks import asked

    started = time.monotonic()
    trained = [stage for stage in told["stages"] if (work / stage / "student" / "training.json").is_file()]
    if not trained:
        return {"skipped": "no student has been trained"}
    model = Student.load(base_of(chosen, work), work / trained[-1] / "student")
    flows = pd.read_parquet(chosen.run / "test-texts.parquet")
    flows = flows.iloc[np.random.default_rng(told["seed"]).permutation(len(flows))[: chosen.explained]]
    texts, written, batch = flows["text"].tolist(), list[tuple[str, bool]](), 128
    begun = time.monotonic()
    while len(written) < len(texts):
        taken = time.monotonic() - begun
        rate = taken / len(written) if written else 0.0
        if time.monotonic() - started + rate * batch > 0.9 * seconds:
            break
        some = texts[len(written) : len(written) + batch]
        prompts = [asked(text, "explain", told["tasks"]) for text in some]
        written += model.explain(prompts, room_for(told["words"]), batch=batch)
    taken, texts = time.monotonic() - begun, texts[: len(written)]
    best = model.score_labels([asked(text, "classify", told["tasks"]) for text in texts], told["classes"])
    labels = [told["classes"][place] for place in best.argmax(axis=1)]
    write_explanations(
        chosen.out / "explanations.parquet", flows["flow_group"][: len(texts)], labels, {"free": written}
    )
    signed = frozenset(told["standardised"])
    found = score_explanations(texts, written, labels, told["classes"], None, signed, told["marked"])
    faultless = next(one for one in found["shares"] if one["share"] == "faultless")
    shown = {name: found["aggregate"][name] for name in WRITTEN}
    return {"stage": trained[-1], "writing_seconds": round(taken, 2), **shown, "faultless_interval": faultless}


if __name__ == "__main__":
    main()
