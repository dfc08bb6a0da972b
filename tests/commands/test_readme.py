"""The README's examples work, and its test command is the one that CI runs."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
EXAMPLES = re.findall(r"<!-- run by the tests -->\n```python\n(.*?)```", README.read_text(), re.S)


def test_the_examples_of_the_readme_run_and_learn(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(EXAMPLES) == 14
    names: dict[str, object] = {"__name__": "readme"}
    for example in EXAMPLES:
        exec(compile(example, str(README), "exec"), names)
    out = capsys.readouterr().out
    errors = [float(word) for word in re.findall(r"error ([\d.]+) %", out)]
    assert len(errors) == 28
    assert errors[4] < 10  # five epochs of the network
    assert errors[9] < 10  # five epochs of a table
    assert errors[14] < 10  # five epochs of two moons
    assert errors[16] < 30  # two epochs of a softmax readout
    assert errors[17] < 20  # one epoch of a residual network
    assert errors[18] < 30  # one epoch of a lateral one
    assert errors[20] < 30  # two epochs of convolutions
    assert errors[21] < 20  # gone on with from a checkpoint
    assert errors[24] < 20  # three epochs of continual updates
    assert errors[26] < 20  # two epochs of untied weights
    assert errors[27] < 30  # one epoch of the model of one's own
    unexplained = [float(word) for word in re.findall(r"([\d.]+) % of the variance", out)]
    assert unexplained[-1] < min(75, unexplained[0])
    assert float(out.splitlines()[-3]) < 0.003  # 1.5 β, and some room
    assert out.splitlines()[-1] == "True"  # the premise holds
    last = re.search(r"([\d.]+) % of the test digits are wrong", out)
    assert last
    assert float(last[1]) < 10


def test_the_first_example_takes_ten_lines() -> None:
    assert len([line for line in EXAMPLES[0].splitlines() if line]) <= 10


@pytest.mark.parametrize("name", ["constraints.txt", "CONTRIBUTING.md", "LICENSE", "CHANGELOG.md"])
def test_what_the_readme_relies_on_is_there(name: str) -> None:
    assert (README.parent / name).stat().st_size > 0
