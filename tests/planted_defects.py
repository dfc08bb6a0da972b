"""Planted defects: one-line mistakes that the test suite must catch.

Each is planted in a copy of the sources; the tests named beside it must then fail. A defect that
goes unnoticed, or that no longer fits the sources, makes this script fail::

    python tests/planted_defects.py            all of them
    python tests/planted_defects.py beta       those whose description has the word
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Defect(NamedTuple):
    """``old`` becomes ``new`` in ``file``; ``tests`` must notice."""

    description: str
    file: str
    old: str
    new: str
    tests: str


EP = "estimators/equilibrium_propagation.py"
DEFECTS = [
    Defect("wrong sign of the gradient", EP, "scale = -1 / (", "scale = 1 / (", "test_theory.py"),
    Defect("lost 1/β", EP, "scale = -1 / (upper - lower)", "scale = -1.0", "test_theory.py"),
    Defect(
        "symmetric nudging divided by β instead of 2β",
        EP,
        "scale = -1 / (upper - lower)",
        "scale = -1 / upper",
        "test_theory.py",
    ),
    Defect(
        "symmetric nudging from the free state on one side",
        EP,
        "(lower, before), (upper, after) = points[-2:]",
        "(lower, before), (upper, after) = points[0], points[-1]",
        "test_theory.py",
    ),
    Defect("β that is not random", EP, ".item() * 2 - 1", ".item() * 0 + 1", "test_theory.py"),
    Defect(
        "nudged phase from s₀ instead of the steady state",
        EP,
        "state=free.state,",
        "",
        "test_theory.py test_golden.py",
    ),
    Defect(
        "nudge towards the wrong side",
        "relaxation.py",
        "cost.gradient(state[-1], target) * -beta",
        "cost.gradient(state[-1], target) * beta",
        "test_theory.py test_relaxation.py",
    ),
    Defect(
        "nudge without ε in real time",
        "models.py",
        "torch.add(after[-1], force, alpha=self.epsilon)",
        "torch.add(after[-1], force)",
        "test_theory.py",
    ),
    Defect(
        "contrast without 1/ε",
        "models.py",
        "(self.phi(x, after) - self.phi(x, before)) / self.epsilon",
        "self.phi(x, after) - self.phi(x, before)",
        "test_theory.py",
    ),
    Defect(
        "vector field differentiated at the wrong state",
        "models.py",
        "field = self.field(self.drive(x), anchor)",
        "field = self.field(self.drive(x), tuple(0 * a for a in anchor))",
        "test_theory.py",
    ),
    Defect(
        "ρ′ left out of the dynamics",
        "networks.py",
        "self.rho.derivative(layer, rate) * current",
        "current",
        "test_networks.py",
    ),
    Defect(
        "transposed weight on the way down",
        "connections.py",
        "torch.addmm(onto, upper, self.weight)",
        "torch.addmm(onto, upper, self.weight.t().reshape(self.weight.shape))",
        "test_networks.py",
    ),
    Defect(
        "half of the learning rule lost",
        "connections.py",
        "torch.addmm(moved.t() @ lower_after, upper_before.t(), nearby)",
        "moved.t() @ lower_after",
        "test_networks.py test_golden.py",
    ),
    Defect(
        "sum over the batch instead of its mean",
        "connections.py",
        "scale /= len(upper_after)",
        "scale /= 1",
        "test_networks.py test_golden.py",
    ),
    Defect(
        "activation's derivative off by a factor",
        "activations.py",
        "4 * torch.addcmul",
        "2 * torch.addcmul",
        "test_networks.py",
    ),
    Defect(
        "input not passed through ρ in real time",
        "networks.py",
        "return self._chain[0].up(self.rate(x.flatten(1)))",
        "return self._chain[0].up(x.flatten(1))",
        "test_networks.py",
    ),
    Defect(
        "BPTT through one step too few",
        "estimators/backpropagation_through_time.py",
        "settling = self.free_steps - (self.truncation or self.free_steps)",
        "settling = self.free_steps - (self.truncation or self.free_steps) + 1",
        "test_theory.py",
    ),
    Defect(
        "adjoint without its source",
        "estimators/recurrent_backpropagation.py",
        "adjoint = (*pulled[:-1], pulled[-1] + source)",
        "adjoint = pulled",
        "test_theory.py",
    ),
    Defect(
        "gradients overwritten instead of accumulated",
        "estimators/estimator.py",
        "parameter.grad.add_(gradient)",
        "parameter.grad = gradient",
        "test_theory.py",
    ),
    Defect(
        "one step too many",
        "relaxation.py",
        "while taken < steps",
        "while taken <= steps",
        "test_relaxation.py",
    ),
    Defect(
        "states kept though nobody asked",
        "relaxation.py",
        "        if record:\n            trajectory.append(now)",
        "        trajectory.append(now)",
        "test_relaxation.py",
    ),
    Defect(
        "learning rates the wrong way round",
        "networks.py",
        "zip(self._chain, learning_rates, strict=True)",
        "zip(self._chain, reversed(list(learning_rates)), strict=True)",
        "test_networks.py",
    ),
    Defect(
        "random generator not restored",
        "checkpoint.py",
        "generator.set_state(self.generator)",
        "pass",
        "test_checkpoint.py",
    ),
    Defect(
        "altered checkpoint trusted",
        "checkpoint.py",
        "if not intact:",
        "if False:",
        "test_checkpoint.py",
    ),
    Defect(
        "checkpoint written in place",
        "checkpoint.py",
        'temporary = path.with_name(f".{path.name}.{os.getpid()}")',
        "temporary = path",
        "test_checkpoint.py",
    ),
    Defect(
        "order of the data that does not depend on the seed",
        "commands.py",
        "manual_seed(experiment.seed)",
        "manual_seed(0)",
        "test_command_line.py -k seed_gives",
    ),
]


def caught(defect: Defect) -> bool:
    """Whether the tests fail once the defect is planted."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "eqprop"
        shutil.copytree(ROOT / "src" / "eqprop", copy)
        path = copy / defect.file
        text = path.read_text()
        if text.count(defect.old) != 1:
            raise SystemExit(f"{defect.description}: {defect.old!r} is not once in {defect.file}")
        path.write_text(text.replace(defect.old, defect.new))
        names, _, choice = defect.tests.partition(" -k ")
        run = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"),
                *(["-k", choice] if choice else []),
                *(str(ROOT / "tests" / name) for name in names.split()),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        # 1: tests failed; anything else but 0 is a suite that could not run, and proves nothing.
        if run.returncode not in (0, 1):
            raise SystemExit(f"{defect.description}: {run.stdout}{run.stderr}")
        return run.returncode == 1


def main() -> int:
    chosen = [d for d in DEFECTS if all(word in d.description for word in sys.argv[1:])]
    missed = []
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        for defect, found in zip(chosen, workers.map(caught, chosen), strict=True):
            print(f"{'caught' if found else 'MISSED'}  {defect.description}", flush=True)
            if not found:
                missed.append(defect)
    print(f"{len(chosen) - len(missed)} of {len(chosen)} planted defects caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
