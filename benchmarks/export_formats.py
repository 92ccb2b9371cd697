"""Size, label agreement, calibration and grounding of a student in every export format, beside the student itself.

    IOT_LAKE=lake python benchmarks/export_formats.py 10K original --flows 0 --save

The student is the one of the present settings. With `llama-server` on the PATH, or the package xllamacpp installed, a
GGUF is asked in llama.cpp too. Every export is written to a temporary folder, whatever it agrees to.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from result import save

from iot_pipeline.commands.export import export
from iot_pipeline.export.llama_cpp import installed
from iot_pipeline.settings import settings

FORMS = (
    "merged fp32", "merged bf16", "gguf f16", "gguf bf16", "gguf q8_0", "gguf q5_0", "gguf q4_0", "openvino fp32",
    "openvino int8", "openvino int4",
)  # fmt: skip


def main() -> None:
    """Export in each format and print, or save, what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage")
    parser.add_argument("track")
    parser.add_argument("--flows", type=int, default=0, help="test flows; 0: all")
    parser.add_argument("--forms", default=",".join(FORMS), help="formats with their data types, comma separated")
    parser.add_argument("--save", action="store_true", help="write results/export_formats.json")
    chosen = parser.parse_args()
    rows = [one(chosen.stage, chosen.track, chosen.flows, *form.split()) for form in chosen.forms.split(",")]
    first = rows[0]
    result = {
        "question": "What does a student lose in each export format?",
        "student": {name: first.pop(name) for name in ("base", "labels", "student")},
        "llama_cpp": installed(),
        "load_average": round(os.getloadavg()[1], 1),
        "exports": [
            {name: value for name, value in row.items() if name not in ("base", "labels", "student")} for row in rows
        ],
    }
    save("export_formats", result, print_only=not chosen.save)


def one(stage: str, track: str, flows: int, form: str, quantisation: str) -> dict[str, Any]:
    """Export once; return its figures."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = export(settings(), stage, track, Path(folder) / "out", form, quantisation, flows, True, log)
    compared, engine = found["comparison"], found["engine"]
    weights = [
        file["bytes"] for name, file in found["files"].items() if name.endswith((".safetensors", ".gguf", ".bin"))
    ]
    row = {
        "format": form,
        "quantisation": quantisation,
        "weights_mb": round(sum(weights) / 1e6, 3),
        "seconds": round(time.perf_counter() - started, 1),
        **{
            name: compared[name]
            for name in ("flows", "agreeing", "agreement", "low", "high", "most_apart", "explained")
        },
        **{name: compared["exported"][name] for name in ("accuracy", "macro_f1", "ece", "grounded")},
        "other_tokens": found["other_tokens"] if found["vocabulary"] is None else found["vocabulary"]["differing"],
        "in_llama_cpp": engine and {name: engine[name] for name in ("flows", "agreeing", "other_tokens")},
        "base": found["base"],
        "labels": found["labels"],
        "student": compared["student"],
    }
    print(
        {name: row[name] for name in ("format", "quantisation", "weights_mb", "agreement", "ece", "grounded")},
        flush=True,
    )
    return row


def log(_: str) -> None:
    """Say nothing: a line a format is enough."""


if __name__ == "__main__":
    main()
