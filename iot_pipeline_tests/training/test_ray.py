"""Trainings on a real local Ray: the results of local ones, lost workers, killed launchers, refusals."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from iot_pipeline.errors import UserError
from iot_pipeline.settings import load_settings
from iot_pipeline.training import ray_job, ray_launch
from iot_pipeline.training.ray_job import gpus_of
from iot_pipeline.training.ray_launch import RayOptions, ray_command, request_of
from iot_pipeline_tests.training import on_ray
from iot_pipeline_tests.training.on_ray import config_in

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `ray` is not installed")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return on_ray.make_world(tmp_path_factory.mktemp("ray"))


def test_without_ray_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'iot-pipeline\[ray\]'"):
        ray_command([Path("config.json")], 1, RayOptions())


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"IOT_RAY_ADDRESS": "ray://head:10001"}, "IOT_RAY_ADDRESS"),
        ({"IOT_RAY_GPUS": "0.5", "IOT_PROCESSES": "2"}, "cannot share a GPU"),
        ({"IOT_RAY_GPUS": "2"}, "IOT_RAY_GPUS"),
    ],
)
def test_settings_that_no_cluster_could_follow_are_refused(values: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_settings(values | {"IOT_LAUNCHER": "ray"})


def test_a_worker_gets_the_gpu_that_is_there_and_a_wait_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []

    def gpus(there: float, address: str | None, gpus: float | None = None) -> float | None:
        request = request_of([config_in(tmp_path, tmp_path)], 4, 1, RayOptions(address, gpus))
        return gpus_of(request, there, lambda kind, text: told.append((kind, text)))

    assert gpus(8, "http://head:8265") == 1 and told == []
    assert gpus(0, "http://head:8265") == 0 and "no GPU" in told.pop()[1]
    assert gpus(2, "http://head:8265") == 1 and told.pop() == ("line", "waiting for 4 GPUs: the cluster has 2 now")
    assert gpus(2, None) is None and told.pop()[0] == "error"


def test_no_variable_but_those_that_steer_processes_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    (tmp_path / "base").mkdir()
    sent = ray_launch.variables_of(request_of([config_in(tmp_path, tmp_path)], 2, 1, RayOptions("http://head:8265")))
    assert "sk-secret" not in str(sent) and "IOT_PARENT_PID" not in sent
    assert sent["HF_HUB_OFFLINE"] == "1" and sent["RAY_USAGE_STATS_ENABLED"] == "0" and sent["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (["No available agent to submit job, please try again later.", "No available agent", None], None),
        (["No available agent"] * 100, "took no job (No available agent"),
        (["Job uses working_dir\nat length"], "took no job (Job uses working_dir)"),
        (["refused: http://me:secret@head:8265/api"], "took no job (refused: http://"),
    ],
)
def test_a_job_is_submitted_once_the_cluster_can_start_it(
    answers: list[str | None], told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, left = [0.0], list(answers)

    def submit_job(**job: object) -> None:
        assert job["submission_id"] == "iot-1" and job["entrypoint"] == "python 'a b'"
        if (answer := left.pop(0)) is not None:
            raise RuntimeError(answer)

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(ray_launch, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: clock[0]))
    with pytest.raises(UserError, match=rf"^(?!.*secret).*{re.escape(told)}") if told else nullcontext():
        ray_launch.hand_over(SimpleNamespace(submit_job=submit_job), "iot-1", ["python", "a b"], {})
    assert clock[0] <= ray_launch.STARTING_S + 1 and (told or not left)


@needs_ray
def test_a_cluster_that_takes_a_request_and_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_launch, "UNREACHABLE_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(UserError, match=r"no Ray cluster takes jobs at .*timed? ?out"):
            ray_launch.connected(f"http://127.0.0.1:{silent.getsockname()[1]}")


@needs_ray
def test_a_password_in_the_cluster_s_address_is_not_told() -> None:
    with pytest.raises(UserError, match=r"takes jobs at http://127\.0\.0\.1:9 \(.*127\.0\.0\.1:9") as caught:
        ray_launch.connected("http://me:hunter2@127.0.0.1:9")
    assert "hunter2" not in str(caught.value) and caught.value.__cause__ is None


def test_a_password_in_the_cluster_s_address_is_not_in_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_launch, "check_ray", lambda: None)
    monkeypatch.setattr(ray_launch, "exit_with_parent", lambda: None)
    asked: list[str] = []
    monkeypatch.setattr(ray_launch, "submit", lambda address, *_: asked.append(address) or 0)
    options = RayOptions("http://me:hunter2@head:8265", cpus=2)
    path = config_in(tmp_path, tmp_path).write(tmp_path / "config.json")
    command = ray_command([path], 1, options)
    assert "hunter2" not in str(command)
    for name, value in ray_launch.address_variable(options).items():
        monkeypatch.setenv(name, value)
    assert ray_launch.main(command[3:]) == 0 and asked == [options.address]


@needs_ray
def test_the_reports_of_workers_are_kept_on_the_job_s_own_node(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    chosen: dict[str, Any] = {}
    actor = SimpleNamespace(remote=lambda: "relay", options=lambda **told: chosen.update(told) or actor)
    monkeypatch.setattr(ray, "remote", lambda kind: actor)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "ab" * 28))
    assert ray_job.relay_here() == "relay" and chosen["num_cpus"] == 0
    # Else Ray starts an actor that needs nothing on any node, and a lost one takes the reports along.
    assert (chosen["scheduling_strategy"].node_id, chosen["scheduling_strategy"].soft) == ("ab" * 28, False)


@pytest.mark.parametrize(("last_beat", "removed", "ends"), [(100, False, (130, 135)), (20, True, (20, 25))])
def test_a_job_ends_once_nobody_renews_its_lease_or_another_launcher_takes_it_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last_beat: int, removed: bool, ends: tuple[int, int]
) -> None:
    lease, clock = tmp_path / "lease", [0.0]
    lease.touch()

    def sleep(seconds: float) -> None:
        clock[0] += seconds
        if clock[0] <= last_beat:
            lease.write_text(str(clock[0]))
        elif removed:
            lease.unlink()

    monkeypatch.setattr(ray_job, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    monkeypatch.setattr(ray_job, "os", SimpleNamespace(_exit=sys.exit))
    with pytest.raises(SystemExit, match="3"):
        ray_job.end_without(lease)
    assert ends[0] <= clock[0] <= ends[1]


@needs_ray
@pytest.mark.slow
def test_two_workers_predict_as_two_local_processes_and_a_lost_one_changes_nothing(world: Path, tmp_path: Path) -> None:
    local, whole, killed = (config_in(world, tmp_path / name) for name in ("local", "whole", "killed"))
    on_ray.train_here(local, 2)
    told = on_ray.start(whole, 2).wait()
    assert "2 process(es)" in told, told[-2000:]
    assert np.abs(on_ray.scores(local) - on_ray.scores(whole)).max() <= 1e-5
    started = on_ray.start(killed, 2)
    on_ray.until((killed.out / "checkpoint.safetensors").exists, started)
    assert on_ray.listening(started.mark) <= {"127.0.0.1", "::1"}
    on_ray.workers_of(started.mark)[0].kill()
    assert not (killed.out / "training.json").exists()
    assert "resumed at step" in (told := started.wait()), told[-2000:]
    assert started.process.returncode == 0 and set(on_ray.same_bytes(killed, whole).values()) == {True}


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_launcher_leaves_no_process(world: Path, tmp_path: Path, number: signal.Signals) -> None:
    settings = config_in(world, tmp_path, max_steps=100_000)
    started = on_ray.start(settings, 2)
    on_ray.until((tmp_path / "checkpoint.safetensors").exists, started)
    assert len(on_ray.workers_of(started.mark)) == 2
    if number is signal.SIGKILL:
        started.process.kill()
    else:
        os.killpg(started.process.pid, number)  # as a cancelled run does
    started.process.wait(60)
    assert on_ray.seconds_to_vanish(started.others, 60) is not None
    if number is signal.SIGTERM:
        assert not list(tmp_path.glob("iot-*"))


@needs_ray
@pytest.mark.slow
def test_a_cluster_trains_by_its_address_alone_and_its_job_ends_with_the_launcher(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 64)
    with on_ray.started_cluster(2) as (address, mark):
        options = RayOptions(address, gpus=0)
        broken = config_in(world, tmp_path / "broken", tensors=tmp_path / "none.safetensors")
        broken.tensors.write_bytes(b"no tensors")
        started = on_ray.start(broken, 2, options)
        told = started.wait()
        assert started.process.returncode == 2 and told.count("error: ") == 1 and "not a readable tensor" in told
        started = on_ray.start(endless := config_in(world, tmp_path / "endless", max_steps=100_000), 2, options)
        on_ray.until((endless.out / "checkpoint.safetensors").exists, started)
        started.process.kill()
        started.process.wait(60)
        assert on_ray.seconds_to_vanish(lambda: on_ray.workers_of(mark), 60) is not None
        assert on_ray.marked(mark)  # the cluster lives on
        monkeypatch.setenv("RAY_AUTH_TOKEN", "b" * 64)
        started = on_ray.start(config_in(world, tmp_path / "refused"), 1, options)
        assert "no Ray cluster takes jobs" in started.wait() and started.process.returncode == 2
