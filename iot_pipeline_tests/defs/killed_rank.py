"""A rank of a training that is killed, as by a system without memory."""

import os
import signal

if __name__ == "__main__":
    os.kill(os.getpid(), signal.SIGKILL)
