"""A MariaDB of the tests' own: a throw-away server on a unix socket, without fsync, gone at the end."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "s3cr/t,w0rd"  # the server looks at none; it must be shown nowhere all the same
NUMBERS = itertools.count()
PLACES = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/usr/libexec"])


def program(name: str) -> str:
    """Path of a program of MariaDB; skips the test where there is none."""
    found = shutil.which(name, path=PLACES)
    if found is None:
        pytest.skip(f"no MariaDB server on this machine ({name} is not on PATH; Debian: mariadb-server-core)")
    return found


@contextlib.contextmanager
def server() -> Iterator[Callable[..., str]]:
    """Makes a fresh empty database at each call and gives its URL."""
    pymysql = pytest.importorskip("pymysql", reason="PyMySQL is not installed: pip install 'iot-pipeline[mysql]'")
    mariadbd = program("mariadbd")
    folder = Path(tempfile.mkdtemp(prefix="my", dir="/tmp"))  # a short path: that of a socket is limited
    data, socket = folder / "data", folder / "s"
    process = None
    try:
        data.mkdir()
        if os.getuid() == 0:  # MariaDB refuses to run as root
            shutil.chown(folder, "nobody")
            shutil.chown(data, "nobody")
        process = subprocess.Popen(
            [mariadbd, "--no-defaults", f"--datadir={data}", f"--socket={socket}", f"--pid-file={folder / 'pid'}",
             *(["--user=nobody"] if os.getuid() == 0 else []), "--skip-networking", "--skip-grant-tables",
             "--skip-log-bin", "--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync",
             "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder,
        )  # fmt: skip
        admin = _connected(pymysql, socket)

        def database(options: str = "") -> str:
            name = f"store{next(NUMBERS)}"
            admin.cursor().execute(f"CREATE DATABASE {name} {options}")
            return f"mysql+pymysql://tester:{PASSWORD.replace('/', '%2F')}@localhost/{name}?unix_socket={socket}"

        yield database
        admin.close()
    finally:
        if process is not None:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _connected(pymysql: Any, socket: Path) -> Any:
    for _ in range(400):
        try:
            return pymysql.connect(unix_socket=str(socket), user="root", autocommit=True)
        except pymysql.err.OperationalError:
            time.sleep(0.05)
    raise RuntimeError("MariaDB did not start")
