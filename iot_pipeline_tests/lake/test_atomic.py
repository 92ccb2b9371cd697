"""Files are written and read in UTF-8 on a machine whose locale is another."""

import os
import subprocess
import sys
from pathlib import Path

from iot_pipeline.lake.atomic import write_json

LOCALE = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # Python takes ASCII for text then
READS = """
import locale, sys
from pathlib import Path
from iot_pipeline.lake.atomic import read_json, write_json
assert locale.getpreferredencoding(False) != "utf-8"
found = read_json(Path(sys.argv[1]))
assert found == {"class": "S\\u00e4ure"}, found
write_json(Path(sys.argv[2]), found)
"""


def test_json_is_the_same_whatever_the_locale(tmp_path: Path) -> None:
    write_json(tmp_path / "here.json", {"class": "Säure"})
    command = [sys.executable, "-c", READS, str(tmp_path / "here.json"), str(tmp_path / "there.json")]
    done = subprocess.run(command, env=os.environ | LOCALE, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there.json").read_bytes() == (tmp_path / "here.json").read_bytes()
