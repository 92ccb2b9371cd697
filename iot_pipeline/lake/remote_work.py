"""Work in progress of artefacts in a bucket: checkpoints that another host can go on from when this one is lost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

from iot_pipeline.errors import UserError
from iot_pipeline.lake.atomic import remove, sha256_file, write_text
from iot_pipeline.lake.object_store import Objects

WORK, INDEX = "work", "index.json"
SEEN = ".index"  # in a work folder: id of the index that it was last like
LAST_FILE_S = 60.0  # `stop` waits that long for the file that is being uploaded
EVERY_S = 30.0  # what a lost host had done since its last upload is done again


class RemoteWork:
    """Uploads the work folders of this process, and fetches those of others.

    Of a work folder, `work/<artefact>/<fingerprint>/<sha256>` has the files and index.json says which belongs where.
    """

    def __init__(self, objects: Objects, root: Path) -> None:
        self._objects, self._root = objects, root
        self._running: dict[str, tuple[threading.Event, threading.Thread]] = {}

    def resume(self, name: str, folder: Path) -> bool:
        """Fetch the work of an artefact, if another host went on with it since this one did; True if it was fetched.

        The folder is named by the fingerprint of the work. A file that is gone or damaged is left out: that part of
        the work is done again, and all of it where the index is damaged.
        """
        prefix = f"{WORK}/{name}/{folder.name}"
        others = [key for key in self._objects.listing(f"{WORK}/{name}") if not key.startswith(f"{prefix}/")]
        self._objects.remove(others)  # work that settings have left behind
        if (told := self._objects.read(f"{prefix}/{INDEX}")) is None:
            return False
        try:
            index, seen = json.loads(told), _seen(folder)
            made, files = str(index["id"]), {str(path): str(digest) for path, digest in index["files"].items()}
        except (ValueError, LookupError, TypeError, AttributeError):
            return False
        if seen.is_file() and seen.read_text(encoding="utf-8") == made:
            return False
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as fetched:
            for path, digest in files.items():
                part = Path(fetched) / folder.name / path
                if not part.resolve().is_relative_to(Path(fetched).resolve()):
                    continue  # a path that leads out of the folder
                part.parent.mkdir(parents=True, exist_ok=True)
                if self._objects.download(f"{prefix}/{digest}", part) and sha256_file(part) != digest:
                    part.unlink()
            if not (whole := Path(fetched) / folder.name).is_dir():
                return False
            remove(folder)
            os.rename(whole, folder)
        write_text(seen, made)
        return True

    def keep(self, name: str, folder: Path, held: Callable[[], bool]) -> None:
        """Upload a work folder every EVERY_S in a thread, while `held()` and until `stop`."""
        self.stop(name)
        stop = threading.Event()

        def run() -> None:
            stamps: dict[str, tuple[int, int, str]] = {}
            while not stop.wait(EVERY_S) and held():
                try:
                    self.upload(name, folder, stamps, lambda: held() and not stop.is_set())
                except (OSError, UserError):  # the next round may reach the store
                    continue

        thread = threading.Thread(target=run, name=f"lake-work-{name}", daemon=True)
        self._running[name] = stop, thread
        thread.start()

    def stop(self, name: str) -> None:
        """Stop uploading the work of an artefact."""
        if name in self._running:
            stop, thread = self._running.pop(name)
            stop.set()
            thread.join(LAST_FILE_S)

    def drop(self, name: str) -> None:
        """Remove the work of a finished artefact from the bucket; if that is away, the artefact's next work does it."""
        self.stop(name)
        with contextlib.suppress(UserError):
            self._objects.remove(self._objects.listing(f"{WORK}/{name}"))

    def upload(
        self, name: str, folder: Path, stamps: dict[str, tuple[int, int, str]], held: Callable[[], bool] = lambda: True
    ) -> None:
        """Upload what changed in a work folder, then its index, then remove what the index no longer names.

        Args:
            name: File name of the artefact.
            folder: Its work folder, whose files may be replaced or grow meanwhile.
            stamps: Size, mtime (ns) and sha256 of each file in the last index; updated once there is another.
            held: Returns False once the work belongs to somebody else.
        """
        prefix, now = f"{WORK}/{name}/{folder.name}", dict(stamps)
        # Listed first: a result that is written last is listed only together with all that it needs.
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        for path in paths:
            if not held():
                return
            key, facts = path.relative_to(folder).as_posix(), path.stat()
            if now.get(key, ())[:2] != (facts.st_size, facts.st_mtime_ns):
                digest = self._upload_copy(path, prefix)
                now[key] = (facts.st_size, facts.st_mtime_ns, digest)
        for key in now.keys() - {path.relative_to(folder).as_posix() for path in paths}:
            del now[key]
        if now == stamps or not held():
            return
        made, digests = uuid.uuid4().hex, {key: digest for key, (_, _, digest) in now.items()}
        index = json.dumps({"id": made, "files": digests}, sort_keys=True)
        self._objects.write(f"{prefix}/{INDEX}", index.encode())
        write_text(_seen(folder), made)
        named = {f"{prefix}/{digest}" for digest in digests.values()} | {f"{prefix}/{INDEX}"}
        self._objects.remove([key for key in self._objects.listing(prefix) if key not in named])
        stamps.clear()
        stamps.update(now)

    def _upload_copy(self, path: Path, prefix: str) -> str:
        """Upload a copy of a file, which does not change while it is read; return its sha256."""
        scratch = self._root / ".scratch"
        scratch.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=scratch) as place:
            copy = Path(place) / "copy"
            shutil.copyfile(path, copy)
            digest = sha256_file(copy)
            self._objects.upload(copy, f"{prefix}/{digest}")
        return digest


def _seen(folder: Path) -> Path:
    return folder / SEEN
