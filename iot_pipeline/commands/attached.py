"""Run a Python module in a process that ends with its parent, and everything in its process group with it.

    python -m iot_pipeline.commands.attached PARENT_PID MODULE [ARGUMENT ...]

A parent killed with SIGKILL tells nobody. Its child sees another parent then, on any POSIX system, and kills its own
group: Dagster's web server and daemon start code servers and run workers that would outlive them.
"""

import os
import runpy
import signal
import sys
import threading
import time

EVERY_S = 0.5


def end_with_parent(parent: int) -> None:
    """Kill this process group as soon as the process is no child of `parent` any more."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(EVERY_S)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def main() -> None:
    """Watch the parent, then run the module as `python -m` does. The process leads a group of its own."""
    if os.getpgrp() != os.getpid():
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with SIGINT ignored
    end_with_parent(int(sys.argv[1]))
    module = sys.argv[2]
    sys.argv[1:] = sys.argv[3:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
