"""Subprocess that builds the tiny base: `python -m iot_pipeline.tiny_base.__main__ CONFIG.json`, or torchrun."""

import hashlib
import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from iot_pipeline.augmentation.answer_style import form_writer
from iot_pipeline.errors import UserError
from iot_pipeline.flows.spec import load_spec
from iot_pipeline.lake.atomic import sha256_file, write_json, write_text
from iot_pipeline.tiny_base.build import BaseRecipe, build_tiny_base
from iot_pipeline.training.distributed import find_machine, leave_processes
from iot_pipeline.training.launch import exit_with_parent
from iot_pipeline.training.reporter import Reporter, complain, dagster_pipes, no_room

RESULT = "building.json"


class BaseConfig(BaseModel):
    """Configuration of one tiny-base build; `texts` is a JSON list of flow texts without labels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str = Field(description="data set spec: name or path")
    texts: Path
    out: Path = Field(description="folder of `model`, building.json and progress.jsonl")
    words: int = Field(description="words of the answers whose form it reads")
    order: str = Field(description="order of their parts")
    marked: bool = Field(False, description="they cite features as marked facts")
    classes: list[str] | None = Field(None, description="classes that the flows have; unset: those of the spec")
    steps: int
    seed: int
    threads: int = Field(description="CPU threads of one process")
    processes: int

    def identity(self) -> str:
        """Hash the values that determine the build; a finished one with the same hash need not be repeated.

        Threads, processes and CPU type are included: each changes the order of summation, and so the weights from the
        first step on.
        """
        from torch.backends.cpu import get_cpu_capability

        values = self.model_dump(mode="json", exclude={"texts", "out"}, exclude_defaults=True)
        values |= {"texts": sha256_file(self.texts), "recipe": asdict(BaseRecipe(steps=self.steps))}
        values |= {"cpu": f"{platform.machine()} {get_cpu_capability()}"}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def write(self, path: Path) -> Path:
        """Write the configuration as JSON; return `path`."""
        write_text(path, self.model_dump_json(indent=1) + "\n")
        return path


def main() -> int:
    """Build the base that the given configuration file describes; exit code 0, or 2 after a one-line error."""
    exit_with_parent()
    try:
        config = BaseConfig(**json.loads(Path(sys.argv[1]).read_text()))
        machine = find_machine(config.threads, "off", cards=False)  # build.py keeps model and batches on the CPU
        spec = load_spec(config.dataset)
        spec = spec.model_copy(update={"classes": config.classes}) if config.classes else spec
        with dagster_pipes() as pipes:
            report = build_tiny_base(
                json.loads(config.texts.read_text()),
                spec.classes,
                spec.feature_names,
                config.out / "model",
                form_writer(spec, config.words, config.order, config.marked),
                config.seed,
                BaseRecipe(steps=config.steps),
                machine=machine,
                reporter=Reporter(pipes, config.out, machine.rank == 0),
            )
        if machine.rank == 0:
            write_json(config.out / RESULT, report | {"processes": machine.world, "identity": config.identity()})
        leave_processes()
    except UserError as error:
        complain(error)
        return 2
    except Exception as error:
        if (told := no_room(error, Path(sys.argv[1]).parent)) is None:
            raise
        complain(told)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
