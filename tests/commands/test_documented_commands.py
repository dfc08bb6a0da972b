"""Every command that the documentation prints is run as printed; what takes long is stopped."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_readme import PAGES, commands

LINES = sorted({shlex.join(words) for page in PAGES for words in commands(page)})

SECONDS = 6
"""After which a command that still works is stopped, as by Ctrl-C."""

MNIST = "p-1h p-2h eb-1h p-2h-fast p-conv-fast c-vf-1h table-1 table-cep fig-1b fig-1c speed all"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs and files lie that the pages speak of."""
    folder = tmp_path_factory.mktemp("pages")
    source = np.random.default_rng(0)
    x, y = source.random((60, 13)), np.arange(60) % 3
    tables = {"x_train": x[:40], "y_train": y[:40], "x_test": x[40:], "y_test": y[40:]}
    np.savez(folder / "wine.npz", **tables)
    numbers = {**tables, "y_train": x[:40, 0], "y_test": x[40:, 0]}
    np.savez(folder / "mine.npz", **numbers)
    (folder / "my.toml").write_text('preset = "digits"\nepochs = 2\n')
    for part in ("train", "test"):
        for name in ("robin", "wren"):
            (folder / "birds" / part / name).mkdir(parents=True)
            for number in range(4):
                image = Image.fromarray(source.integers(0, 255, (8, 8, 3)).astype(np.uint8))
                image.save(folder / "birds" / part / name / f"{number}.png")
                image.save(folder / "one.png")
                image.save(folder / "another.jpg")
    for words in (
        "train --epochs 2 --out runs/mine",
        "train --dataset npz:wine.npz --validation-share 0.2 --epochs 1 --out wine-run",
        "train --dataset folder:birds --epochs 1 --out runs/birds",
    ):
        subprocess.run(
            [sys.executable, "-m", "eqprop", *words.split()],
            cwd=folder,
            check=True,
            capture_output=True,
        )
    shutil.copytree(folder / "runs/mine", folder / "runs/digits")
    return folder


@pytest.mark.exhaustive
@pytest.mark.parametrize("line", LINES)
def test_a_command_of_the_documentation_works_as_printed(
    line: str, folder: Path, tmp_path: Path
) -> None:
    words = [
        "runs/mine" if word == "DIR" or word.endswith("-…") else word for word in shlex.split(line)
    ]
    if "slurm" in words:
        pytest.skip("expected a cluster with Slurm")
    if "cuda" in words and not torch.cuda.is_available():
        pytest.skip("expected a GPU")
    of_digits = "--dataset" in words and "digits" in words
    if not of_digits and {*MNIST.split()} & {*words}:
        data = Path(os.environ.get("EQPROP_DATA", ""), "mnist")
        if not (os.environ.get("EQPROP_DATA") and data.is_dir()):
            pytest.skip("expected MNIST in the folder that EQPROP_DATA names")
    where = tmp_path / "pages"
    shutil.copytree(folder, where)
    if "--out" in words:
        shutil.rmtree(where / words[words.index("--out") + 1], ignore_errors=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "eqprop", *words],
        cwd=where,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # No browser is opened, and two commands at once are no slower than one.
        env={**os.environ, "BROWSER": "true", "OMP_NUM_THREADS": "1"},
    )
    try:
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, err
        assert "Traceback" not in err
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
        # It may have come to its end meanwhile, or not have begun its work.
        assert process.returncode in (0, 128 + signal.SIGINT, -signal.SIGINT), err
