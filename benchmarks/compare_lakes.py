"""Compare two lakes file by file: does a change of the code change what it makes?

    .venv/bin/python benchmarks/compare_lakes.py BEFORE AFTER [--json]

Artefacts are matched by what they are (asset, stage, track), however an edition of the code spells their keys. Files
that may differ between equal runs (timings, machine facts) are counted and left out. Exit code 1 where a file differs
whose difference no line of EXPECTED gives a reason for.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

STAGES, TRACKS = ("10K", "30K", "70K", "150K", "ALL"), ("original", "paraphrased", "feature_varied")
# (pattern of `artefact/file`, why it differs), from c325388, the last commit before the redesign, to the end of it.
EXPECTED: list[tuple[str, str]] = [
    (r"claims_audit/claims_audit.json", "names assets by their new keys; measured seconds"),
    (r"flow_profile/flow_profile.parquet", "sums depended on DuckDB's order of groups (2e-16); values are sorted now"),
    (r"label_conflicts/label_conflicts.json", "the distinct ceiling is summed in another order (1e-16)"),
    (r"track_comparison/track_comparison.json", "has macro-F1, lowest recall, the choice on validation, the study"),
    (r"model_card/.*.md", "names the artefact by its new key; run id, seconds"),
    (r"paper_report/report.md", "rendered from the templates of the chapters; run ids, seconds"),
    (r"inference_benchmark/ladder", "called variants now"),
    (r"training_order/ranks.json", "part of flow_texts/writer.json now"),
]


def main() -> int:
    """Compare, print, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    found = compare(chosen.before, chosen.after)
    if chosen.json:
        print(json.dumps(found, indent=1))
    else:
        for kind in ("different", "expected", "only_before", "only_after"):
            print(f"{kind} ({len(found[kind])})", *found[kind], sep="\n  ")
        print(f"equal: {found['equal']}, may differ and do: {found['volatile_different']}")
    return 1 if found["different"] or found["only_before"] else 0


def compare(before: Path, after: Path, expected: list[tuple[str, str]] | None = None) -> dict[str, Any]:
    """Sort every file of two lakes into equal, different, expected to differ, and in one of them alone."""
    expected = EXPECTED if expected is None else expected
    old, new = files(before), files(after)
    shared = old.keys() & new.keys()
    differing = sorted(name for name in shared if old[name]["sha256"] != new[name]["sha256"])
    lasting = [name for name in differing if not (old[name]["volatile"] or new[name]["volatile"])]
    reasons = {name: next((why for at, why in expected if re.search(at, name)), None) for name in lasting}
    return {
        "equal": len(shared) - len(differing),
        "volatile_different": len(differing) - len(lasting),
        "different": [name for name, why in reasons.items() if why is None],
        "expected": [f"{name}: {why}" for name, why in reasons.items() if why is not None],
        "only_before": unexpected(old.keys() - new.keys(), expected),
        "only_after": sorted(new.keys() - old.keys()),
    }


def unexpected(names: set[str], expected: list[tuple[str, str]]) -> list[str]:
    """The names that no expectation explains."""
    return sorted(name for name in names if not any(re.search(at, name) for at, _ in expected))


def files(lake: Path) -> dict[str, dict[str, Any]]:
    """Facts of every file of a lake by `asset/stage/track/file`, as the manifests tell them."""
    found = {}
    for path in sorted(lake.rglob("manifest.json")):
        if any(part.startswith(".") for part in path.relative_to(lake).parts):
            continue
        manifest = json.loads(path.read_text())
        for name, facts in manifest["files"].items():
            found[f"{identity(manifest['asset'], manifest['partition'])}/{name}"] = facts
    return found


def identity(asset: str, partition: str) -> str:
    """`asset/stage/track`, without a seed and without what the asset's key repeats of them."""
    words = re.split(r"[/|]", f"{asset}/{partition}")
    base = re.sub(rf"_({'|'.join(STAGES)})$", "", words[0])
    stages = [w for w in STAGES if w in re.split(r"[/|_]", f"{asset}|{partition}")]
    tracks = [w for w in TRACKS if w in words[1:]] or ([base] if base in TRACKS else [])
    return "/".join([base, *stages, *tracks])


if __name__ == "__main__":
    sys.exit(main())
