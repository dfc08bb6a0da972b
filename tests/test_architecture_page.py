"""The page about the architecture is drawn from the code, and never stale."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_page_says_what_the_code_says() -> None:
    command = [sys.executable, str(ROOT / "docs" / "architecture.py"), "--check"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
