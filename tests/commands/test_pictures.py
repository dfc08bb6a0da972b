"""What the command line tells of a run, told of a model in Python: no settings, no folder of a run.

The example is that of the docstring of :mod:`eqprop.pictures`, as it stands there.
"""

import dataclasses
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from torch import Tensor, nn

import eqprop
from eqprop import pictures
from eqprop.analysis.diagnosis import BetaCurve
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


def diagnosed(model: ConvergentModel, **others: Any) -> eqprop.Diagnosis:
    torch.manual_seed(1)
    x, y = torch.rand(20, 64).double(), torch.eye(10).double().repeat(2, 1)
    steps = {"free_steps": 100, "nudged_steps": 5, "beta": 0.01, **others}
    return eqprop.diagnose(model, [(x, y)], **steps)


def test_outputs_that_a_hard_sigmoid_clips_are_said() -> None:
    torch.manual_seed(0)
    found = diagnosed(eqprop.PrototypicalNetwork(eqprop.dense(64, 8, 10), "hard-sigmoid").double())
    share = found.premise.held[-1]
    assert 0.2 < share < 0.8
    said = eqprop.theorem_text(found)
    assert f"output layer {100 * share:.2g} %; the nudge moves such an output, and BPTT" in said


@pytest.mark.parametrize(
    ("errors", "level", "said"),
    [
        ((1e-5, 1e-4, 1e-3), None, "∝ β^1.00"),
        ((1e-10, 1e-8, 1e-6), None, "∝ β^2.00"),
        ((0.0501, 0.0502, 0.07), 0.0501, "levels off at 0.05"),
        ((1e-3, 1e-3, 1e-2), 1e-3, "levels off at 0.001"),
        ((1e-11, 1e-12, 1e-13), None, "grows as β falls"),
    ],
    ids=["first", "second", "flat", "later", "rounding"],
)
def test_an_error_falls_or_levels_off_or_is_rounding(
    errors: tuple[float, ...], level: float | None, said: str
) -> None:
    found = diagnosed(eqprop.ToyModel(64, 8, 10).double(), betas=(0.01, 0.1))
    holds = (True, True, True)
    curve = BetaCurve((1e-5, 1e-4, 1e-3), errors, errors, holds, holds, (1.0, 1.0, 1.0))
    assert curve.level(errors) == level
    expected = f"error of states {said}, of parameters {said}\n"
    assert expected in eqprop.theorem_text(dataclasses.replace(found, curve=curve))


def test_what_cannot_be_is_refused_in_words() -> None:
    model = eqprop.ToyModel(64, 8, 10).double()
    for others, said in (
        ({"nudged_steps": 101}, "nudged_steps: expected 1 to free_steps = 100"),
        ({"beta": 0.0}, "beta: expected a finite number other than 0"),
        ({"betas": (0.1, -0.1)}, "betas: expected different numbers above 0"),
        ({"betas": (0.1, 0.1)}, "betas: expected different numbers above 0"),
    ):
        with pytest.raises(ValueError, match=said):
            diagnosed(model, **others)
    with pytest.raises(ValueError, match="comparisons: expected at least one, got none"):
        eqprop.diagnose(model, [], free_steps=9, nudged_steps=5, beta=0.1)
    batch = [(torch.rand(1, 64).double(), torch.rand(1, 10).double())]
    steps: Any = {"free_steps": 9, "nudged_steps": 5, "beta": 0.1}
    with pytest.raises(ValueError, match="grid: expected names among beta, free_steps"):
        eqprop.sweep(model, batch, {"eta": [0.1]}, **steps)
    with pytest.raises(ValueError, match="nudged_steps: expected 1 to free_steps = 3"):
        eqprop.sweep(model, batch, {"free_steps": [9, 3]}, **steps)


def test_labelled_data_and_layered_networks_have_pictures_of_their_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = eqprop.PrototypicalNetwork(eqprop.dense(64, 8, 10))
    digits = eqprop.load_dataset("digits").test
    found = eqprop.error_by_step(
        network, eqprop.Split(digits.images[:50], digits.labels[:50]), [1, 5]
    )
    eqprop.draw_error_by_step(found, tmp_path / "steps.png")
    for images in eqprop.weight_images(network, (1, 8, 8)):
        eqprop.draw_weight_images(images, tmp_path / "kernels.png")
    steps: Any = {"free_steps": 9, "nudged_steps": 5, "beta": 0.1}
    y = eqprop.one_hot(digits.labels[:5], 10)
    cells = eqprop.sweep(network, [(digits.images[:5], y)], {"beta": [0.1, 1.0]}, **steps)
    eqprop.draw_sweep(cells, tmp_path / "sweep.png")
    assert len(eqprop.sweep_text(cells).splitlines()) > 3
    assert {path.name for path in tmp_path.iterdir()} == {"steps.png", "kernels.png", "sweep.png"}
