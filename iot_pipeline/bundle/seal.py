"""Seal of a bundle: hashes of all its files, the check of them, and an optional signature with a local key."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iot_pipeline.bundle.contents import LINEAGE
from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import read_json, sha256_file, write_text
from iot_pipeline.lake.integrity import SHORT

SUMS, SIGNATURE = "SHA256SUMS", "bundle.sig"
LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
EXTRA = "`pip install -e '.[bundle]'`"


@dataclass
class BundleCheck:
    """Files that were hashed, and what is not as it was written; `signed` says by what the seal was checked."""

    files: int = 0
    bytes: int = 0
    mismatches: list[str] = field(default_factory=list)
    signed: str = "no signature"


def files_of(folder: Path) -> list[str]:
    """List all files of a bundle but its seal, as paths within it."""
    names = (
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    )
    return sorted(name for name in names if name not in (SUMS, SIGNATURE))


def write_sums(folder: Path) -> None:
    """Write the hashes of all files. Raises UserError for a name that a list of lines cannot hold."""
    for name in files_of(folder):
        if LINE.fullmatch(f"{'0' * 64}  {name}") is None or any("\ud800" <= sign <= "\udfff" for sign in name):
            raise UserError(f"a bundle cannot hold the file {name!r}: rename it")
    write_text(folder / SUMS, "".join(f"{sha256_file(folder / name)}  {name}\n" for name in files_of(folder)))


def check_bundle(folder: Path, public_key: Path | None = None) -> BundleCheck:
    """Hash every file of a bundle and compare copies of artefacts with the lineage.

    Args:
        folder: Folder of the bundle.
        public_key: Public key of whoever signed it; without one a signature is not checked.

    Raises:
        UserError: It is no bundle, or a key was named and it is not signed.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; `iot-pipeline export-bundle {folder}` writes a bundle")
    if not (folder / SUMS).is_file():
        raise UserError(f"{folder} is not a bundle: it has no {SUMS}")
    found, known = BundleCheck(), dict[str, str]()
    # Not splitlines: a name may hold characters that end a line elsewhere, such as U+2028.
    *lines, rest = (folder / SUMS).read_bytes().decode(errors="replace").split("\n")
    for number, line in enumerate([*lines, *([rest] if rest else [])], 1):
        match = LINE.fullmatch(line)
        if match is None or match[2] in known:
            told = "is no hash and name" if match is None else f"names {match[2]} again"
            found.mismatches.append(f"{SUMS}: line {number} {told}")
        else:
            known[match[2]] = match[1]
    there = set(files_of(folder))
    # A link leads out of the bundle, and a device or pipe has no end: neither is read.
    strange = {name for name in there if (folder / name).is_symlink() or not (folder / name).is_file()}
    found.mismatches += [f"{name}: no plain file" for name in sorted(strange)]
    there -= strange
    for name in sorted(known.keys() - there - strange):
        found.mismatches.append(f"{name}: expected sha256 {known[name][:SHORT]}, found no file")
    found.mismatches += [f"{name}: no such file in {SUMS}" for name in sorted(there - known.keys())]
    hashes = {name: sha256_file(folder / name) for name in sorted(there & known.keys())}
    for name, digest in hashes.items():
        found.files, found.bytes = found.files + 1, found.bytes + (folder / name).stat().st_size
        if digest != known[name]:
            found.mismatches.append(f"{name}: expected sha256 {known[name][:SHORT]}, found {digest[:SHORT]}")
    found.mismatches += _against_lineage(folder, hashes)
    if public_key is not None:
        found.mismatches += _signature_problem(folder, public_key)
        found.signed = f"signature checked by {public_key.name}"
    elif (folder / SIGNATURE).is_file():
        found.signed = "signed; name the public key to check it"
    return found


def _against_lineage(folder: Path, hashes: dict[str, str]) -> list[str]:
    """List the copies of the report's and prompts' files whose hash is not that of their manifest."""
    if LINEAGE not in hashes:
        return [f"{LINEAGE}: no such file"]
    wanted: dict[str, str] = {}
    try:
        for one in read_json(folder / LINEAGE)["artefacts"]:
            if one["asset"] == "paper_report":
                wanted |= {f"report/{name}": str(facts["sha256"]) for name, facts in one["files"].items()}
            elif one["asset"] == "prompt":
                wanted[f"prompts/{one['partition']}.md"] = str(one["data_version"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return [f"{LINEAGE}: cannot be read"]
    return [
        f"{name}: {f'sha256 {hashes[name][:SHORT]}' if name in hashes else 'no such file'}, but its manifest says "
        f"{digest[:SHORT]}"
        for name, digest in sorted(wanted.items())
        if hashes.get(name) != digest
    ]


def sign(folder: Path, private_key: Path) -> None:
    """Sign all files of a bundle with a local key (elliptic curve, PEM). Raises UserError without the extra."""
    signing = _model_signing("signing")
    config = signing.Config().use_elliptic_key_signer(private_key=private_key)
    try:
        config.set_hashing_config(_hashing(folder)).sign(folder, folder / SIGNATURE)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{private_key} cannot sign: {error}; an EC key in PEM is needed (openssl ecparam -genkey)"
        ) from None


def _signature_problem(folder: Path, public_key: Path) -> list[str]:
    if not (folder / SIGNATURE).is_file():
        raise UserError(f"{folder} is not signed: it has no {SIGNATURE}")
    verifying = _model_signing("verifying")
    config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    try:
        config.set_hashing_config(_hashing(folder)).verify(folder, folder / SIGNATURE)
    except OSError as error:
        raise UserError(f"{public_key} cannot be read ({error.strerror})") from None
    except Exception as error:  # model-signing raises many kinds: any of them means that it does not verify
        return [f"{SIGNATURE}: does not verify ({' '.join(str(error).split())[:300]})"]
    return []


def _hashing(folder: Path) -> Any:
    hashing = _model_signing("hashing")
    return hashing.Config().set_ignored_paths(paths=[folder / SIGNATURE], ignore_git_paths=False)


def _model_signing(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"model_signing.{name}")
    except ImportError:
        raise UserError(f"signatures need the extra `bundle`: {EXTRA}") from None
