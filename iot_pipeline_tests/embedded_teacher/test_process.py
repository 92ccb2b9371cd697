"""What the embedded teacher's process is told of its starter's environment."""

from iot_pipeline.embedded_teacher.process import without_secrets


def test_no_setting_and_no_secret_is_handed_to_the_embedded_teacher() -> None:
    kept = {"PATH": "/bin", "HOME": "/root", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    secrets = (
        "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "PGPASSWORD",
        "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN", "IOT_SERVE_TOKEN", "IOT_TEACHER_STORE", "IOT_DAGSTER_POSTGRES",
        "IOT_FAILURE_WEBHOOK", "IOT_RAY_ADDRESS",
    )  # fmt: skip
    assert without_secrets(kept | dict.fromkeys(secrets, "hunter2")) == kept
