"""Export of a lake as a bundle: written beside its place and moved there when it is whole."""

import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from iot_pipeline.bundle import cards, contents, crate, croissant, forms, seal
from iot_pipeline.bundle.source import Source
from iot_pipeline.env_file import expanded
from iot_pipeline.errors import UserError
from iot_pipeline.lake.store import MANIFEST
from iot_pipeline.lineage.report_check import REPORT
from iot_pipeline.settings import PROJECT_ROOT

PLACES = 8  # that are told of files in which a path of the machine stands


def export_bundle(source: Source, out: Path, key: Path | None = None, say: Callable[[str], None] | None = None) -> int:
    """Write the bundle of a lake; return the bytes of its files, its seal apart.

    Args:
        source: The lake.
        out: New folder; one that is there must be empty.
        key: Private key to sign with.
        say: Receives what is being written.

    Raises:
        UserError: `out` is not empty or cannot be written, or the lake lacks what a bundle needs.
    """
    out = expanded(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there and not empty; name a new folder")
    if key is not None and not key.is_file():
        raise UserError(f"--sign {key}: there is no such file; an EC key in PEM is needed (openssl ecparam -genkey)")
    tell = say or (lambda _: None)
    # Made when the report was: the same lake gives the same bundle, on whatever day.
    made = (source.lake.folder(REPORT) / MANIFEST).stat().st_mtime
    day = datetime.fromtimestamp(made, UTC).date().isoformat()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as name:
            folder = Path(name) / out.name
            folder.mkdir()
            _fill(source, folder, day, tell)
            if key is not None:
                tell("signing")
                seal.sign(folder, key)
            size = sum((folder / sealed).stat().st_size for sealed in seal.files_of(folder))  # as `verify` counts
            os.rename(folder, out)  # in place of an empty folder too; what another export put there stays
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}); name another folder") from None
    return size


def _fill(source: Source, out: Path, day: str, tell: Callable[[str], None]) -> None:
    """Write all parts; those that describe the others come last."""
    for part in (
        contents.write_report, contents.write_prompts, contents.write_answers, contents.write_configuration,
        contents.write_lineage, contents.write_models, contents.write_data, cards.write_dataset_card,
        cards.write_lm_eval, crate.write_workflow, forms.write_reforms, forms.write_readme,
    ):  # fmt: skip
        tell(part.__name__.removeprefix("write_"))
        part(source, out)
    contents.write_environment(out)
    cards.write_eval_results(source, out, day)
    croissant.write_croissant(source, out, day)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    forms.write_appendix(source, out, size)
    if named := places_of_machine(source, out):
        raise UserError(f"a path of this machine stands in {', '.join(named[:PLACES])}: such a bundle is not written")
    tell("crate")
    crate.write_crate(source, out, seal.files_of(out), day)
    seal.write_sums(out)


def places_of_machine(source: Source, out: Path) -> list[str]:
    """List the text files of a bundle in which the lake's folder or the user's home stands."""
    folders = (source.lake.root.absolute(), Path.home(), PROJECT_ROOT)
    marks = {f"{folder}/".encode() for folder in folders if folder != Path("/")}
    names = seal.files_of(out)
    return [name for name in names if any(mark in (out / name).read_bytes() for mark in marks)]
