"""The import rules of the design: layers, no Dagster in the domain, nothing heavy when the code location loads."""

import subprocess
import sys

HEAVY = [
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "autogluon",
    "sklearn",
    "lightgbm",
    "matplotlib",
    "scipy",
    "ray",
]


def test_layers_and_the_dagster_free_domain() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_code_location_loads_without_heavy_packages() -> None:
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from iot_pipeline.definitions import defs; defs()\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "[]"


def test_neither_help_nor_the_teacher_loads_dagster_or_packages_of_tables() -> None:
    code = (
        "import sys, iot_pipeline.cli, iot_pipeline.embedded_teacher.server, iot_pipeline.teacher.client\n"
        "from iot_pipeline.augmentation import checks\n"
        "print([name for name in ('dagster', 'duckdb', 'numpy', 'pandas', 'pyarrow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"
