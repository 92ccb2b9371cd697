"""A large file carried in parts where a transfer is limited: split with its sha256, joined again only if it agrees.

    python benchmarks/gguf_parts.py split SmolLM2-135M-Instruct.Q4_1.gguf parts --part-mib 48
    python benchmarks/gguf_parts.py join parts SmolLM2-135M-Instruct.Q4_1.gguf

Standard library only. A file is read whole into memory.
"""

import argparse
import hashlib
import json
from pathlib import Path

LIST = "parts.json"


def main() -> None:
    """Split or join."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ways = parser.add_subparsers(dest="way", required=True)
    split_way = ways.add_parser("split")
    split_way.add_argument("file", type=Path)
    split_way.add_argument("folder", type=Path)
    split_way.add_argument("--part-mib", type=float, default=48, help="most MiB of a part")
    join_way = ways.add_parser("join")
    join_way.add_argument("folder", type=Path)
    join_way.add_argument("file", type=Path)
    chosen = parser.parse_args()
    if chosen.way == "split":
        print("\n".join(str(part) for part in split(chosen.file, chosen.folder, chosen.part_mib)))
    else:
        print(join(chosen.folder, chosen.file))


def split(file: Path, folder: Path, part_mib: float) -> list[Path]:
    """Write a file's parts of at most `part_mib` MiB, and their list with the sha256 of the whole."""
    folder.mkdir(parents=True, exist_ok=True)
    data, size = file.read_bytes(), max(1, int(part_mib * 2**20))
    paths = []
    for number, start in enumerate(range(0, len(data), size)):
        paths.append(folder / f"{file.name}.{number:03}")
        paths[-1].write_bytes(data[start : start + size])
    told = {"name": file.name, "sha256": hashlib.sha256(data).hexdigest(), "parts": [path.name for path in paths]}
    (folder / LIST).write_text(json.dumps(told, indent=1) + "\n")
    return paths


def join(folder: Path, file: Path) -> Path:
    """Join the parts of a folder; SystemExit, and no file, if one is missing or the whole is another than was split."""
    told = json.loads((folder / LIST).read_text())
    if missing := [name for name in told["parts"] if not (folder / name).is_file()]:
        raise SystemExit(f"{folder}: parts are missing: {', '.join(missing)}")
    data = b"".join((folder / name).read_bytes() for name in told["parts"])
    if (found := hashlib.sha256(data).hexdigest()) != told["sha256"]:
        raise SystemExit(f"{folder}: the parts of {told['name']} give sha256 {found}, expected {told['sha256']}")
    file.write_bytes(data)
    return file


if __name__ == "__main__":
    main()
