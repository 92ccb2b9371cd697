"""Runner of a Python module whose process group ends with its parent process.

    python -m iot_pipeline.commands.attached PARENT_PID MODULE [ARGUMENT ...]

A parent killed with SIGKILL cannot notify anyone. On any POSIX system its child then sees another parent, and kills its
own group: Dagster's web server and daemon start code servers and run workers that would outlive them.
"""

import os
import runpy
import signal
import sys

from iot_pipeline.lake.processes import end_with_parent


def main() -> None:
    """Watch the parent process and run the module as `python -m` does, in a process group of its own."""
    if os.getpgrp() != os.getpid():
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with SIGINT ignored
    end_with_parent(int(sys.argv[1]))
    module = sys.argv[2]
    sys.argv[1:] = sys.argv[3:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
