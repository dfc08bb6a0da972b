"""Install a wheel into an empty environment and use it, with nothing of the source at hand.

::

    python tests/try_release.py dist/eqprop-0.2.0-py3-none-any.whl
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"

USED = """
import eqprop
run = eqprop.open_run("run")
assert run.predict(run.data.test.images[:3]).shape == (3,)
assert all(getattr(eqprop, name) is not None for name in eqprop.__all__)
print("eqprop", __import__("importlib.metadata").metadata.version("eqprop"), "works")
"""


def main() -> int:
    wheel = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        venv.create(where / "venv", with_pip=True)
        python = str(where / "venv/bin/python")
        install = [python, "-m", "pip", "install", "-q", "-c", str(CONSTRAINTS), str(wheel)]
        for command in (
            install,
            [python, "-m", "eqprop", "train", "--epochs", "1", "--out", "run"],
            [python, "-m", "eqprop", "show", "run"],
            [python, "-m", "eqprop", "explore", "run"],
            [python, "-m", "eqprop", "theorem", "--out", "theorem"],
            [python, "-c", USED],
        ):
            subprocess.run(command, cwd=where, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
