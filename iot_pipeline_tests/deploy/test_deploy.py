"""Files of the deployment, without a cluster: they parse, name what exists, and have no secret in them.

That Dagster takes dagster.yaml is tested on a real PostgreSQL in defs/test_workers.py.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from iot_pipeline.settings import DESCRIPTIONS, PROFILES, PROJECT_ROOT
from iot_pipeline.training.gpu_locks import FOLDER, SHARED

DEPLOY = PROJECT_ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.suffix == ".yaml" or path.name == "Dockerfile")
COMPOSE = yaml.safe_load((DEPLOY / "docker-compose.yaml").read_text())
VALUES = yaml.safe_load((DEPLOY / "kubernetes" / "dagster-values.yaml").read_text())
# Variables that libraries read (openai, botocore, Dagster, Python, pip) or images take, with those of the shell.
FOREIGN = {
    "OPENAI_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL", "DAGSTER_HOME",
    "POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB", "MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD",
    "PYTHONUNBUFFERED", "PIP_NO_CACHE_DIR", "PIP_DISABLE_PIP_VERSION_CHECK",
}  # fmt: skip
OF_COMPOSE = {"IOT_POSTGRES_PASSWORD"}  # goes into the two URLs
SECRETS = re.compile(r"PASSWORD|SECRET|KEY|TOKEN|POSTGRES$|STORE$", re.IGNORECASE)


def documents(path: Path) -> list[Any]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def environments(value: Any) -> Iterator[tuple[str, Any]]:
    """Every variable and its value in the blocks `environment` (compose) and `env` (Kubernetes)."""
    if isinstance(value, list):
        for one in value:
            yield from environments(one)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if name == "environment":
                yield from inner.items()
            elif name == "env" and isinstance(inner, list):
                yield from ((one["name"], one.get("value", one.get("valueFrom"))) for one in inner)
            else:
                yield from environments(inner)


def test_there_is_what_the_guide_speaks_of() -> None:
    names = {str(path.relative_to(DEPLOY)) for path in FILES}
    assert {"dagster.yaml", "docker-compose.yaml", "workspace.yaml", "Dockerfile"} <= names
    assert {f"kubernetes/{name}.yaml" for name in ("dagster-values", "lake", "ray-cluster", "worker-job")} <= names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_variable_is_one_that_is_read(path: Path) -> None:
    text = path.read_text()
    named = set(re.findall(r"\bIOT_[A-Z_]*[A-Z]\b", text))
    known = {f"IOT_{name.upper()}" for name in DESCRIPTIONS} | OF_COMPOSE
    assert named <= known, named - known
    if path.suffix == ".yaml":
        given = {name for document in documents(path) for name, _ in environments(document)}
        assert given <= known | FOREIGN, given - known - FOREIGN
    else:
        given = set(re.findall(r"(?:^ENV|\s)([A-Z_]+)=", text))
        assert given <= known | FOREIGN | {"TORCH_INDEX", "EXTRAS"}, given


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".yaml"], ids=lambda path: path.name)
def test_no_secret_stands_in_clear(path: Path) -> None:
    for document in documents(path):
        for name, value in environments(document):
            if SECRETS.search(name) and value is not None:
                inner = re.findall(r"\$\{(\w+)", str(value))
                assert any(SECRETS.search(one) for one in inner), f"{name}={value}"
    given = re.findall(r"(?i)(?:password|secret_?\w*key|token)\w*[ \t]*[:=][ \t]*[\"']?([^\s\"'#]*)", path.read_text())
    assert all(not word or word.startswith(("$", "?", "iot-", "false")) for word in given), given


# -- docker compose ------------------------------------------------------------------------------------------

# Keys of the Compose specification that the file may use: a misspelt one would be refused by `docker compose`.
SERVICE_KEYS = {
    "image", "build", "command", "configs", "depends_on", "environment", "healthcheck", "init", "ports", "profiles",
    "restart", "volumes",
}  # fmt: skip


def test_compose_has_the_services_of_the_guide_and_no_key_that_compose_does_not_know() -> None:
    assert {"postgres", "code", "daemon", "webserver", "worker", "objects"} == COMPOSE["services"].keys()
    assert {key for key in COMPOSE if not key.startswith("x-")} == {"name", "services", "configs", "volumes"}
    for name, service in COMPOSE["services"].items():
        assert service.keys() <= SERVICE_KEYS, name
        assert {"image", "build"} & service.keys(), name
        for mount in service.get("volumes", []):
            assert mount.split(":")[0] in COMPOSE["volumes"], name
        for config in service.get("configs", []):
            assert config["source"] in COMPOSE["configs"]
        for other, how in service.get("depends_on", {}).items():
            condition = how["condition"]
            assert condition == "service_healthy" and "healthcheck" in COMPOSE["services"][other], name


def test_containers_that_have_the_gpus_share_the_locks_of_them() -> None:
    more = yaml.safe_load((DEPLOY / "docker-compose.gpu.yaml").read_text())
    assert {"code", "worker"} == more["services"].keys() <= COMPOSE["services"].keys()
    for service in more["services"].values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
        assert service["volumes"] == [f"gpus:/tmp/{FOLDER}"] and "gpus" in more["volumes"]
    # A new volume has the mode of the image's folder: without the sticky bit the locks are refused.
    assert f"mkdir --mode={SHARED:o} /tmp/{FOLDER}\n" in (DEPLOY / "Dockerfile").read_text()


def test_the_ui_is_published_on_loopback_alone() -> None:
    ports = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert ports == {"webserver": ["127.0.0.1:3000:3000"]}


def test_a_missing_password_stops_compose_and_optional_keys_are_passed_on() -> None:
    environment = COMPOSE["services"]["code"]["environment"]
    assert "${IOT_POSTGRES_PASSWORD:?" in environment["IOT_DAGSTER_POSTGRES"]
    assert environment["OPENAI_API_KEY"] is environment["AWS_ENDPOINT_URL"] is None
    own = {f"IOT_{name.upper()}" for path in PROFILES.glob("*.yaml") for name in yaml.safe_load(path.read_text())}
    assert {"IOT_SOURCE", "IOT_STAGES", "IOT_TEACHER"} <= own & environment.keys()
    assert [name for name in own & environment.keys() if environment[name] is not None] == []  # a profile decides
    assert environment["AWS_SESSION_TOKEN"] is environment["AWS_DEFAULT_REGION"] is None
    assert COMPOSE["services"]["worker"]["environment"] == environment
    assert environment["DAGSTER_HOME"] == "/app/deploy"


def test_postgres_is_ready_once_it_listens_to_others() -> None:
    # While it makes its databases, the image's server answers on its socket alone.
    assert "--host=127.0.0.1" in COMPOSE["services"]["postgres"]["healthcheck"]["test"][1]


def test_the_commands_exist() -> None:
    from dagster._cli.api import grpc_command, grpc_health_check_command
    from dagster._daemon.cli import run_command

    options, health, run = (
        {flag for one in command.params for flag in one.opts}
        for command in (grpc_command, grpc_health_check_command, run_command)
    )
    services = COMPOSE["services"]
    used = {flag for flag in services["code"]["command"] if flag.startswith("--")}
    assert used <= options and "--port" in health and "--workspace" in run  # iot_pipeline.commands.daemon
    for name in ("webserver", "daemon"):
        assert services[name]["command"][:3] == ["python", "-m", f"iot_pipeline.commands.{name}"]
        importlib.import_module(f"iot_pipeline.commands.{name}")
    assert services["webserver"]["command"][3:] == ["0.0.0.0", "3000", "/app/deploy/workspace.yaml"]
    (server,) = yaml.safe_load((DEPLOY / "workspace.yaml").read_text())["load_from"]
    assert server["grpc_server"]["host"] in services
    assert str(server["grpc_server"]["port"]) in services["code"]["command"]


def test_the_image_has_what_the_project_needs() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    extras = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for default in re.findall(r'ARG EXTRAS="([^"]+)"', text):
        assert set(default.split(",")) <= set(extras)
    for line in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        assert all((PROJECT_ROOT / name).exists() for name in line.split())
    assert re.search(r"^USER iot$", text, re.MULTILINE)
    assert f"torch=={version('torch').split('+')[0]}" in text


def test_no_file_of_secrets_gets_into_the_image() -> None:
    """`COPY deploy` would take compose's .env along."""
    left_out = (PROJECT_ROOT / ".dockerignore").read_text().split()
    assert {"**/.env", "**/*.env"} <= {*left_out}
    kept = (PROJECT_ROOT / ".gitignore").read_text().split()
    assert {".env", "*.env"} <= {*kept}


def test_the_image_has_what_kuberay_probes_its_pods_with() -> None:
    installed = re.search(r"apt-get install (.+?) &&", (DEPLOY / "Dockerfile").read_text())
    assert installed is not None and "wget" in installed[1].split()


# -- Kubernetes ----------------------------------------------------------------------------------------------

# Values that the chart's schema knows (helm/dagster/values.schema.json of 1.13), where it allows no others.
CHART = {
    "": {
        "dagsterWebserver", "dagster-user-deployments", "postgresql", "generatePostgresqlPasswordSecret", "runLauncher",
        "dagsterDaemon", "telemetry", "global", "additionalInstanceConfig",
    },
    "runLauncher": {"type", "config"},
    "dagsterDaemon": {"enabled", "image", "runCoordinator", "runMonitoring", "runRetries"},
    "dagsterWebserver": {"image", "service"},
    "telemetry": {"enabled"},
    "global": {"postgresqlSecretName", "dagsterHome"},
    "postgresql": {"enabled", "postgresqlHost", "postgresqlUsername", "postgresqlDatabase", "service"},
}  # fmt: skip


# The image's user is 1000, and most volumes are root's.
WRITES = {"fsGroup": 1000, "fsGroupChangePolicy": "OnRootMismatch"}


def test_the_charts_values_are_those_it_knows() -> None:
    for name, known in CHART.items():
        found = VALUES[name] if name else VALUES
        assert found.keys() <= known, name
    (deployment,) = VALUES["dagster-user-deployments"]["deployments"]
    assert {"name", "image", "port"} <= deployment.keys() and deployment["podSecurityContext"] == WRITES
    custom = VALUES["runLauncher"]["config"]["customRunLauncher"]
    assert custom.keys() == {"module", "class", "config"}
    assert hasattr(importlib.import_module(custom["module"]), custom["class"])
    assert "ingress" not in VALUES and VALUES["dagsterWebserver"]["service"]["type"] == "ClusterIP"


def test_the_chart_and_compose_run_one_configuration() -> None:
    local = yaml.safe_load((DEPLOY / "dagster.yaml").read_text())
    assert VALUES["additionalInstanceConfig"]["concurrency"]["pools"] == local["concurrency"]["pools"]
    queue = VALUES["dagsterDaemon"]["runCoordinator"]["config"]["queuedRunCoordinator"]
    assert queue["maxConcurrentRuns"] == local["concurrency"]["runs"]["max_concurrent_runs"]
    assert queue["tagConcurrencyLimits"] == local["concurrency"]["runs"]["tag_concurrency_limits"]
    launcher = VALUES["runLauncher"]["config"]["customRunLauncher"]
    assert {key: launcher[key] for key in ("module", "class")} == local["run_launcher"]

    def snake(name: str) -> str:
        return re.sub("[A-Z]", lambda found: "_" + found[0].lower(), name)

    monitoring = {snake(key): value for key, value in VALUES["dagsterDaemon"]["runMonitoring"].items()}
    assert monitoring == local["run_monitoring"]
    retries = {snake(key): value for key, value in VALUES["dagsterDaemon"]["runRetries"].items()}
    assert retries == local["run_retries"]
    text = (DEPLOY / "kubernetes" / "dagster-values.yaml").read_text()
    assert f"--version {version('dagster')}" in text


def test_the_code_location_has_the_instance_of_the_chart() -> None:
    """The chart gives it a DAGSTER_HOME without a dagster.yaml: its jobs would keep records in SQLite in the lake."""
    (deployment,) = VALUES["dagster-user-deployments"]["deployments"]
    (mount,) = (one for one in deployment["volumeMounts"] if one.get("subPath"))
    assert (mount["mountPath"], mount["subPath"]) == (f"{VALUES['global']['dagsterHome']}/dagster.yaml", "dagster.yaml")
    (volume,) = (one for one in deployment["volumes"] if one["name"] == mount["name"])
    assert volume["configMap"] == {"name": "dagster-instance"}  # <release>-instance
    assert "upgrade --install dagster " in (DEPLOY / "kubernetes" / "dagster-values.yaml").read_text()


def pods(value: Any) -> Iterator[dict[str, Any]]:
    """Every pod's spec in a document."""
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        for inner in value.values():
            yield from pods(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pods(inner)


@pytest.mark.parametrize(
    ("name", "kind", "api"),
    [
        ("lake", "PersistentVolumeClaim", "v1"),
        ("ray-cluster", "RayCluster", "ray.io/v1"),
        ("worker-job", "Job", "batch/v1"),
    ],
)
def test_resources_have_what_kubernetes_requires(name: str, kind: str, api: str) -> None:
    (found,) = documents(DEPLOY / "kubernetes" / f"{name}.yaml")
    assert (found["kind"], found["apiVersion"]) == (kind, api)
    label = found["metadata"].get("name") or found["metadata"]["generateName"]
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9-])?", label)
    for pod in pods(found):
        assert pod["securityContext"] == WRITES
        volumes = {one["name"] for one in pod["volumes"]}
        for container in pod["containers"]:
            assert container["name"] and ":" in container["image"]
            assert {one["name"] for one in container["volumeMounts"]} <= volumes
            assert all(isinstance(one["value"], str) for one in container.get("env", []))
            assert "limits" in container["resources"]


def test_the_ray_cluster_is_of_the_version_that_is_installed_and_is_what_the_others_name() -> None:
    (cluster,) = documents(DEPLOY / "kubernetes" / "ray-cluster.yaml")
    spec = cluster["spec"]
    assert {"rayVersion", "headGroupSpec", "workerGroupSpecs"} <= spec.keys()
    for group in spec["workerGroupSpecs"]:
        assert {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"} <= group.keys()
        (container,) = group["template"]["spec"]["containers"]
        gpus = container["resources"]["limits"]["nvidia.com/gpu"]
        assert gpus == container["resources"]["requests"]["nvidia.com/gpu"] == "1"  # Kubernetes wants them equal
    named = {value for path in FILES if path.suffix == ".yaml" for one in documents(path)
             for name, value in environments(one) if name == "IOT_RAY_ADDRESS"}  # fmt: skip
    assert named == {f"http://{cluster['metadata']['name']}-head-svc:8265"}
    claims = re.findall(r"claimName: (\S+)", "".join(path.read_text() for path in FILES))
    assert {*claims} == {"iot-lake"}
    with contextlib.suppress(ImportError):  # ray is an extra
        assert spec["rayVersion"] == version("ray")


def test_trainings_ask_for_gpus_where_nodes_come_on_demand() -> None:
    """A cluster that has let its nodes go has no GPU: unset, IOT_RAY_GPUS would have students train on CPUs."""
    (cluster,) = documents(DEPLOY / "kubernetes" / "ray-cluster.yaml")
    assert [group["minReplicas"] for group in cluster["spec"]["workerGroupSpecs"]] == [0]
    for name in ("dagster-values", "worker-job"):
        found = dict(environments(documents(DEPLOY / "kubernetes" / f"{name}.yaml")))
        assert found["IOT_LAUNCHER"] == "ray" and found["IOT_RAY_GPUS"] == "1", name


def test_all_pods_have_one_image_which_can_submit_trainings_to_ray() -> None:
    text = "".join(path.read_text() for path in FILES if path.parent.name == "kubernetes")
    (tag,) = set(re.findall(r"iot-pipeline(?::|\n +tag: \")([\w.-]+)", text))
    assert f"EXTRAS=postgres,remote,ray -t registry.example/iot-pipeline:{tag} ." in text
