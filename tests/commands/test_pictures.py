"""What the command line tells of a run, told of a model in Python: no settings, no folder of a run.

The example is that of the docstring of :mod:`eqprop.pictures`, as it stands there.
"""

import re
import textwrap
from pathlib import Path

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import Tensor, nn

import eqprop
from eqprop import pictures
from eqprop.core.models import ConvergentModel, EnergyModel, PrimitiveModel, State, VectorFieldModel

PNG = b"\x89PNG\r\n\x1a\n"
BLOCK = re.search(r"::\n\n(.*?)\n\n(?=\S)", pictures.__doc__ or "", re.S)
EXAMPLE = textwrap.dedent(BLOCK[1]) if BLOCK else ""
MODEL = re.compile(r"^model = .*$", re.M)
DRAWN = set(re.findall(r"\"([\w-]+\.png)\"", EXAMPLE))


class MyPhi(PrimitiveModel):
    """Φ = ½ Σ log cosh(A x + W s), over units of a square layer and of the output."""

    def __init__(self) -> None:
        super().__init__([(3, 2), 10])
        self.a = nn.Linear(64, 16)
        self.w = nn.Parameter(0.1 * torch.randn(16, 16))

    def phi(self, x: Tensor, state: State) -> Tensor:
        s = torch.cat([layer.flatten(1) for layer in state], 1)
        return 0.5 * torch.log(torch.cosh(self.a(x) + s @ self.w)).sum(1)


class MyEnergy(EnergyModel):
    """E = ½‖s‖² − Σ tanh(o) · B tanh(A x + h), with a hidden image."""

    def __init__(self) -> None:
        super().__init__([(2, 4, 4), 10], epsilon=0.4)
        self.a = nn.Linear(64, 32)
        self.b = nn.Linear(32, 10)

    def energy(self, x: Tensor, state: State) -> Tensor:
        hidden, output = state
        sent = (self.a(x) + hidden.flatten(1)).tanh()
        half = 0.5 * (hidden.square().flatten(1).sum(1) + output.square().sum(1))
        return half - (output.tanh() * self.b(sent)).sum(1)


class MyField(VectorFieldModel):
    """Two ways that have nothing to do with each other."""

    def __init__(self) -> None:
        super().__init__([8, 10], activation="tanh")
        self.a, self.b, self.c = nn.Linear(64, 8), nn.Linear(8, 10), nn.Linear(10, 8)

    def field(self, drive: Tensor, state: State) -> State:
        hidden, output = state
        return self.a(drive) + 0.5 * self.c(output), self.b(hidden)


MODELS = {"phi": MyPhi, "energy": MyEnergy, "field": MyField}


def run(model: ConvergentModel | None = None) -> dict[str, object]:
    """The example, with another model in the place of its own, if one is given."""
    names: dict[str, object] = {"model": model}
    code = EXAMPLE if model is None else MODEL.sub("", EXAMPLE)
    exec(compile(code, "the example", "exec"), names)
    return names


@pytest.mark.parametrize("kind", [None, *MODELS])
def test_the_example_tells_and_draws_any_model(
    kind: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if kind not in (None, "phi"):
        # Two that are looked at are enough: to put the ink on paper takes seconds.
        monkeypatch.setattr(FigureCanvasAgg, "print_png", lambda _, file: file.write(PNG))
    torch.manual_seed(0)
    assert len(MODEL.findall(EXAMPLE)) == 1
    names = run(None if kind is None else MODELS[kind]().double())
    said = capsys.readouterr().out
    assert len(DRAWN) == 6
    assert {path.name for path in tmp_path.iterdir()} == DRAWN
    assert all((tmp_path / name).read_bytes().startswith(PNG) for name in DRAWN)
    assert "residual of the free phase: hidden layer 1 " in said
    assert re.search(
        r"^T = \d+ and K = \d+ settle 99 % of the 20 samples|all 20 samples", said, re.M
    )
    assert all(
        len(line) <= 80 for line in said.split("error of states")[0].splitlines() if "  " in line
    )
    found = names["found"]
    assert isinstance(found, eqprop.Diagnosis)
    # Exact models follow to first order in β; a field that is no gradient does not.
    slope = found.curve.slope(found.curve.parameters)
    assert slope == pytest.approx(0 if kind == "field" else 1, abs=0.05)
