"""Command line of `iot-pipeline export` and `merge`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from iot_pipeline.cli_group import AsJson

Stage = Annotated[str, typer.Argument(help="Stage of the checkpoint, such as 10K.")]
Track = Annotated[str, typer.Argument(help="Track of the checkpoint.")]
Out = Annotated[Path, typer.Argument(help="New folder.")]
Flows = Annotated[int, typer.Option(help="Test flows for comparing the export with the student; 0: all.")]
Force = Annotated[
    bool, typer.Option("--force", help="Keep the export even if fewer than 99.9 % of labels agree; its card says so.")
]


def register(app: typer.Typer, configure: Callable[[], Any], quiet: Callable[[], None]) -> None:
    """Add the commands to the application.

    Args:
        app: The application.
        configure: Returns the present settings.
        quiet: Suppresses warnings that a user cannot act on.
    """

    def _write(
        stage: str, track: str, out: Path, form: str, quantisation: str | None, flows: int, force: bool, as_json: bool
    ) -> None:
        chosen = configure()
        quiet()
        from iot_pipeline.commands import export as exporting
        from iot_pipeline.commands.console import facts, working

        with working("export:") as say:
            found = exporting.export(chosen, stage, track, out, form, quantisation, flows, force, say)
        facts(found if as_json else exporting.told(found), as_json)

    @app.command(epilog="Example: iot-pipeline export 30K paraphrased student --format gguf --quantisation q8_0")
    def export(
        stage: Stage,
        track: Track,
        out: Out,
        form: Annotated[str, typer.Option("--format", help="merged (transformers, vLLM), gguf, ollama or openvino.")],
        quantisation: Annotated[
            str | None,
            typer.Option(
                help="merged: fp32, bf16. gguf, ollama: bf16, f32, f16, q8_0, q5_1, q5_0, q4_1, q4_0. "
                "openvino: fp32, fp16, int8, int4. Default: the first."
            ),
        ] = None,
        flows: Flows = 2_000,
        force: Force = False,
        as_json: AsJson = False,
    ) -> None:
        """Write a trained student for another engine; a card compares labels, calibration and explanations."""
        _write(stage, track, out, form, quantisation, flows, force, as_json)

    @app.command(epilog="Example: iot-pipeline merge 30K paraphrased merged_30K --dtype bf16")
    def merge(
        stage: Stage,
        track: Track,
        out: Out,
        dtype: Annotated[str, typer.Option(help="Type of the weights: fp32 or bf16.")] = "fp32",
        flows: Flows = 2_000,
        force: Force = False,
        as_json: AsJson = False,
    ) -> None:
        """Write base model and adapter of a checkpoint as one model; short for `export --format merged`."""
        _write(stage, track, out, "merged", dtype, flows, force, as_json)
