"""``python -m eqprop.cli.worker``: the command line, ending with the process that started it.

Standard input must be a pipe whose other end that process holds and never writes to. Once the
process has gone, however it went, the pipe is closed: then this one goes too, so that nobody has to
look for runs that a killed command left behind.
"""

import os
import sys
import threading

from eqprop.cli.main import main

__all__ = []


def _follow() -> None:
    # Not through sys.stdin: a thread that holds its lock would trouble the end of the interpreter.
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_follow, daemon=True).start()
    sys.exit(main())
