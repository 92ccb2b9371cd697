"""Leaks between the sides of the split, planted in `defs/` one at a time: does a test name each?

    python benchmarks/wiring_mutants.py

Each mutant is one changed line in a copy of the package; it is killed if iot_pipeline_tests/defs/test_sides.py fails.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from result import save

from iot_pipeline.settings import PROJECT_ROOT

TESTS = "iot_pipeline_tests/defs/test_sides.py"
EVALUATION, BASELINE = "evaluation/assets.py", "baseline/assets.py"
TRAINING, PAPER, TRACKS = "training/assets.py", "training/paper.py", "tracks.py"
GRID = "training/grid.py"
LEAKING = "return pd.concat([training_rows(flows, order, 0, stop), sides['test'].assign(label='Normal')]), sides"
LOSS = 'tensors / "train.safetensors"'
FITTED = """read_side(side_records(records, "calibration"), classes)
            fitted = fit_temperature(calibration, align(calibration, *scores["calibration"]))"""
TEST, VALIDATION, CALIBRATION = '"test"', '"validation"', '"calibration"'
# Leak, file in defs/, the part of a line that changes, and what stands there then.
MUTANTS = [
    ("temperature of a student fitted on test", EVALUATION, FITTED, TEST),
    ("temperature of a baseline fitted on test", BASELINE, f"read_side(side_records(records, {CALIBRATION})", TEST),
    ("tiny base reads test flows", TRAINING, 'side_texts(texts_of(step), records_of(step), "train")', TEST),
    ("validation loss of training rows", TRAINING, 'tensors / "validation.safetensors"', LOSS),
    ("validation answers of train flows", TRACKS, f"{VALIDATION}, settings", '"train"'),
    ("validation answers of test flows", TRACKS, f"{VALIDATION}, settings", TEST),
    ("AutoML trained on test flows", BASELINE, "return training_rows(flows, order, 0, stop), sides", LEAKING),
    ("baselines measured on calibration", BASELINE, f"side_records(records, {TEST}), result.group_ids", CALIBRATION),
    ("students measured on validation", EVALUATION, f'{TEST}), *scores["test"]', VALIDATION),
    ("choices made on test", EVALUATION, f'{VALIDATION}), *scores["validation"]', TEST),
    ("explanations of train flows", EVALUATION, '_, texts = prompts_of(step, "test")', '"train"'),
    (
        "zero-shot teacher asked about train flows",
        TRACKS,
        'side_texts(texts_of(step), records_of(step), "test")',
        '"train"',
    ),
    ("cells of the grid measured on validation", GRID, 'step.json("eval.json", result["test"]', VALIDATION),
    ("audit scored on train flows", PAPER, 'sampled_rows(records, "test", SCORED_FLOWS', '"train"'),
]


def mutated(text: str, place: str, other: str) -> str:
    """Return a file's text with the side named at `place` changed to `other`, or all of `place` if it names none."""
    if place not in text:
        sys.exit(f"nothing reads {place!r}: write this mutant anew")
    side = next((side for side in (TEST, VALIDATION, CALIBRATION, '"train"') if side in place), place)
    changed = place.replace(side, other)
    if "scores[" in place:  # the scores of the same side
        changed = changed.replace(f"scores[{side}]", f"scores[{other}]")
    return text.replace(place, changed)


def main() -> None:
    """Run the tests on every mutant, and save which test failed first."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary)
        for name in ("iot_pipeline", "iot_pipeline_tests"):
            shutil.copytree(PROJECT_ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(PROJECT_ROOT / "pyproject.toml", copy)
        for leak, file, place, other in [("none", EVALUATION, "", ""), *MUTANTS]:
            path = copy / "iot_pipeline" / "defs" / file
            whole = path.read_text()
            path.write_text(mutated(whole, place, other) if place else whole)
            failed = first_failure(copy)
            path.write_text(whole)
            rows.append({"leak": leak, "file": f"defs/{file}", "failed": failed})
            print(f"{leak}: {failed or 'survives'}", flush=True)
    killed = sum(bool(row["failed"]) for row in rows[1:])
    save("wiring_mutants", {"mutants": len(MUTANTS), "killed": killed, "rows": rows})
    if rows[0]["failed"] or killed < len(MUTANTS):
        sys.exit(f"{killed} of {len(MUTANTS)} mutants were killed; without a leak: {rows[0]['failed'] or 'passed'}")


def first_failure(copy: Path) -> str:
    """Return the name of the first test that fails; empty if all pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=no", TESTS]
    done = subprocess.run(command, cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True)
    found = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if bool(found) != bool(done.returncode):
        sys.exit(f"the tests ended with {done.returncode}: {done.stdout[-500:]} {done.stderr[-500:]}")
    return found[0].split("::")[-1].split(" - ")[0] if found else ""


if __name__ == "__main__":
    main()
