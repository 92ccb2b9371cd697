"""Dagster resources: lake, teacher, trainer. The settings choose the implementation behind each interface."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from iot_pipeline.defs.recording import LakeResource, Step
from iot_pipeline.inference.ray_batch import check_ray as check_batches
from iot_pipeline.inference.student import Student
from iot_pipeline.lake.atomic import read_json
from iot_pipeline.lake.processes import end_group, is_over
from iot_pipeline.models.check import TINY_MATRICES, check_base, check_targets, check_tokenizer
from iot_pipeline.models.smollm2 import SMOLLM2, smollm2_base
from iot_pipeline.settings import settings
from iot_pipeline.teacher.client import Teacher
from iot_pipeline.teacher.request import EMBEDDED, EMBEDDED_MODEL, is_embedded
from iot_pipeline.teacher_factory import open_teacher
from iot_pipeline.tiny_base.__main__ import RESULT, BaseConfig
from iot_pipeline.training.config import TrainConfig, finished
from iot_pipeline.training.gpu_locks import cards_here, leased
from iot_pipeline.training.launch import BUILD_BASE, MOST_CPU_PROCESSES, command, environment, processes_here
from iot_pipeline.training.ray_launch import RayOptions, address_variable, check_ray, ray_command
from iot_pipeline.training.reporter import describe_progress

USAGE_TAG, USED = "iot_pipeline/", ("requests", "tokens", "usd")  # tags of a run that asked the teacher
LIMITS = {"budget_usd", "via", "concurrency", "rpm", "tpm"}
TINY = "tiny"  # the base model that this project builds
EMBEDDED_LABEL = "EMBEDDED teacher: explanations by the built-in rule-based analyst, not by an LLM"


class TeacherResource(dg.ConfigurableResource):
    """Teacher named by IOT_TEACHER; the embedded one runs as a process while it is open.

    The launchpad shows these values and can change them for one run, the budget downwards alone. They say how answers
    are fetched, not what they are; those that are unset are IOT_TEACHER_*'s.
    """

    budget_usd: float | None = None
    via: str | None = None
    concurrency: int | None = None
    rpm: int | None = None
    tpm: int | None = None

    @contextlib.contextmanager
    def open(self, step: Step) -> Iterator[Teacher]:
        """Open the teacher on the store of answers.

        Raises UserError if a key is needed and there is none. Base model and launcher are checked first: nothing is
        paid for answers that no student could be trained on.
        """
        if settings().run.launcher == "ray":
            check_ray()
        if settings().run.batch == "ray":
            check_batches()
        base = settings().student.base_model  # not recorded: another base leaves the answers as they are
        if base == SMOLLM2:
            base = str(smollm2_base(settings().base_cache_path, step.log))
        matrices = TINY_MATRICES if base == TINY else check_base(base)["matrices"]
        check_targets(matrices, settings().student.lora_targets)
        if named := settings().evaluation.audit_tokenizer:
            check_tokenizer(named)
        # Recorded because they decide the answers: the teacher, and the rules of the embedded one. Limits, budget and
        # store do not.
        edition = step.code("iot_pipeline.embedded_teacher.analyst") if step.settings.teacher.server == EMBEDDED else ""
        limits = {f"teacher_{name}": value for name, value in self.model_dump(include=LIMITS).items()}
        if self.budget_usd is not None:  # IOT_TEACHER_BUDGET_USD is never passed, whatever a launchpad says
            limits["teacher_budget_usd"] = min(self.budget_usd, step.settings.run.teacher_budget_usd)
        with open_teacher(step.settings.with_run(**limits), step.log, edition) as engine:
            step.provenance |= {"teacher": engine.source, "via": engine.via}
            try:
                yield engine
            finally:  # a run that fails has spent too
                tag_usage(step, engine)
            step.metadata |= usage_of(engine)
            if engine.form_refused:
                step.provenance["answers"] = "without response_format, which the server refused"
            if engine.refused:
                step.provenance["parameters_refused"] = engine.refused


def usage_of(engine: Teacher) -> dict[str, Any]:
    """Return the usage of the latest `ask`, requests and cost, under the metadata names of dagster-openai."""
    if not engine.models:
        return {}
    answering = EMBEDDED_MODEL if is_embedded(engine.source) else "+".join(engine.models)  # whatever was requested
    told = engine.summary
    usage = {
        "calls": told.attempts,
        "prompt_tokens": told.prompt_tokens,
        "completion_tokens": told.completion_tokens,
        "total_tokens": told.prompt_tokens + told.completion_tokens,
        "usd": told.usd,
        "failed": told.failed(),
        "cached_answers": told.cached,
        "outcomes": dg.MetadataValue.json(told.outcomes),
    }
    return {f"openai.{answering}.{name}": value for name, value in usage.items()}


def tag_usage(step: Step, engine: Teacher) -> None:
    """Tag the run with requests, tokens and dollars of the latest `ask`, so that lists of runs show them."""
    told = engine.summary
    tokens = told.prompt_tokens + told.completion_tokens
    figures = {"requests": str(told.attempts), "tokens": str(tokens), "usd": f"{told.usd:.4f}"}
    step.tag_run({USAGE_TAG + name: value for name, value in figures.items()})


class TrainerResource(dg.ConfigurableResource):
    """Trainer that runs in separate processes, here or on a Ray cluster, and reports over Dagster Pipes.

    launcher, processes: IOT_TRAINER and IOT_PROCESSES if unset. grace_seconds: time between SIGTERM and SIGKILL.
    """

    launcher: str | None = None
    processes: int | None = None
    grace_seconds: float = 10.0

    def count(self, step: Step) -> int:
        """Return the number of training processes: as set, or as many as suit this machine; one on a cluster."""
        run, tiny = step.settings.run, step.settings.student.base_model == TINY
        on_cluster = run.launcher == "ray" and run.ray_address is not None
        return self.processes or run.processes or (1 if on_cluster else processes_here(tiny))

    def count_for_base(self, step: Step) -> int:
        """Return the number of processes that build the tiny base: on the CPU, so at most one a core."""
        return min(self.processes or step.settings.run.processes or MOST_CPU_PROCESSES, os.cpu_count() or 1)

    def train(self, step: Step, configs: list[TrainConfig], processes: int) -> list[dict[str, Any]]:
        """Train students one after the other in the same processes; return the content of each training.json.

        Outputs and checkpoints are written to each config's `out`. A killed training resumes from its last checkpoint
        when the same config is trained again; a finished one is not repeated. Raises dg.Failure with the error or last
        lines of output if training fails or another number of processes ran, UserError if there are fewer GPUs than
        processes.
        """
        waiting = [config for config in configs if finished(config) is None]
        if len(waiting) < len(configs):
            step.log("this training had ended before: its result is taken as it is")
        if waiting:
            written = [config.write(config.out / "config.json") for config in waiting]
            argv, cluster, cards = self._launch(step, written, processes)
            variables = environment(waiting[0].base, processes, waiting[0].threads) | cluster
            self._run(step, argv, variables, [config.out for config in waiting], leased(cards, processes, step.log))
        found: list[dict[str, Any]] = [read_json(config.out / "training.json") for config in configs]
        for config, facts in zip(configs, found, strict=True):
            if config in waiting and (ran := facts["facts"]["processes"]) != processes:
                raise dg.Failure(f"{processes} training processes were asked for, {ran} ran", allow_retries=False)
        return found

    def _launch(self, step: Step, configs: list[Path], processes: int) -> tuple[list[str], dict[str, str], list[str]]:
        """Return the command line that trains, its variables, and the GPUs here of which it needs a lease."""
        run = step.settings.run
        if run.launcher == "local":
            return command(configs, processes, launcher=self.launcher or run.trainer), {}, cards_here()
        options = RayOptions(run.ray_address, run.ray_gpus, run.ray_cpus)
        cards = cards_here() if run.ray_address is None and run.ray_gpus != 0 else []
        return ray_command(configs, processes, options), address_variable(options), cards

    def build_base(self, step: Step, config: BaseConfig) -> dict[str, Any]:
        """Build the tiny base in `config.out`, on the CPU; return its report. Raises dg.Failure as `train` does."""
        if (config.out / RESULT).is_file():
            done: dict[str, Any] = read_json(config.out / RESULT)
            if done.get("identity") == config.identity():
                step.log("this base had been built before: it is taken as it is")
                return done
        variables = environment(str(config.out), config.processes, config.threads)
        path = config.write(config.out / "config.json")
        argv = command([path], config.processes, module=BUILD_BASE)
        self._run(step, argv, variables, [config.out], contextlib.nullcontext([]))
        report: dict[str, Any] = read_json(config.out / RESULT)
        return report

    def _run(
        self,
        step: Step,
        argv: list[str],
        variables: dict[str, str],
        outs: list[Path],
        lease: contextlib.AbstractContextManager[list[str]],
    ) -> None:
        """Run a training process on leased GPUs and in its own process group, and forward its progress."""
        with (
            lease as cards,
            dg.open_pipes_session(
                context=step.context,
                context_injector=dg.PipesTempFileContextInjector(),
                message_reader=dg.PipesTempFileMessageReader(),
            ) as session,
            (outs[0] / "output.txt").open("wb") as output,
        ):
            if cards:
                variables |= {"CUDA_VISIBLE_DEVICES": ",".join(cards)}
            process = subprocess.Popen(
                argv,
                env={**os.environ, **variables, **session.get_bootstrap_env_vars()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # its own process group, so that no rank outlives a cancelled run
            )
            try:
                self._follow(step, process, [out / "progress.jsonl" for out in outs])
            finally:
                end_group(process, self.grace_seconds)
        if (code := process.returncode) != 0:
            raise dg.Failure(
                f"training ended with code {code}: {reason_of(code, outs[0] / 'output.txt')}", allow_retries=False
            )

    def _follow(self, step: Step, process: "subprocess.Popen[bytes]", progress: list[Path]) -> None:
        """Forward the latest line of the process's progress files until it has ended."""
        read = {path: path.stat().st_size if path.exists() else 0 for path in progress}
        while True:
            over = is_over(process)
            for path, position in read.items():
                if path.exists() and path.stat().st_size > position:
                    with path.open("rb") as lines:
                        lines.seek(position)
                        new = lines.read()
                    complete = new[: new.rfind(b"\n") + 1]
                    read[path] = position + len(complete)
                    if complete:
                        step.progress(describe_progress(json.loads(complete.splitlines()[-1])))
            if over:
                return
            time.sleep(0.5)


def work_folder(step: Step, *decides: Any) -> Path:
    """Create the work folder of an artefact, which survives a kill, and delete those that something else decided.

    With a lake in a bucket it also survives the loss of this host: it is uploaded, and another one goes on with it.

    Args:
        step: Step of the artefact.
        decides: Values that decide what is made there: the folder is found again only while they are equal.
    """
    named = json.dumps(decides, sort_keys=True, default=str)
    folder = work_of(step) / hashlib.sha256(named.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    for other in {*folder.parent.iterdir()} - {folder}:
        shutil.rmtree(other)
    if step.lake.keep_work(step.artefact, folder):
        step.log("work that another host had begun was fetched: this one goes on with it")
    return folder


def clear_work(step: Step) -> None:
    """Delete the work folders of a finished artefact; before that, they hold its checkpoints."""
    step.lake.drop_work(step.artefact)
    shutil.rmtree(work_of(step), ignore_errors=True)


def work_of(step: Step) -> Path:
    """Return the parent of this artefact's work folders."""
    return step.lake.root / ".work" / step.artefact.file_name


@contextlib.contextmanager
def leased_device(step: Step) -> Iterator[str]:
    """Lease a GPU while the block runs, and yield its torch device name; `cpu` if there is no GPU."""
    here = cards_here()
    with leased(here, min(1, len(here)), step.log) as cards:
        yield f"cuda:{here.index(cards[0])}" if cards else "cpu"


@contextlib.contextmanager
def opened_student(step: Step, base: str, adapter: Path | None) -> Iterator[Student]:
    """Load the student of an adapter on a leased GPU (CPU if there is none); release GPU and memory at the end.

    None is the base alone.
    """
    with leased_device(step) as device:
        student = Student.load(base, adapter, device, threads=step.settings.run.threads)
        try:
            yield student
        finally:
            student.close()


@dg.definitions
def resources() -> dg.Definitions:
    """Return the resources that assets request by name."""
    return dg.Definitions(
        resources={"lake": LakeResource(), "teacher": TeacherResource(), "trainer": TrainerResource()}
    )


def reason_of(code: int, output: Path) -> str:
    """Say in one line why a training ended with an exit code, by the output that it left."""
    lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    # A launcher of many processes prints its own report after the error of the failed rank.
    if errors := [line for line in lines if line.startswith("error: ")]:
        return errors[0]
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return (
            "it was killed, as a system does when memory runs out; if that is so, set IOT_TRAIN_MICRO_ROWS (rows of a "
            "forward pass) lower or take a smaller base"
        )
    return " | ".join(lines[-4:]) or f"it wrote nothing; is there room in {output.parent}?"
