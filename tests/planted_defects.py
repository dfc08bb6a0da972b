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
CONTINUAL = "estimators/continual_equilibrium_propagation.py"
PROCESSES = "processes.py"
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
    Defect(
        "β that is not random",
        "estimators/estimator.py",
        ".item()) * 2 - 1",
        ".item()) * 0 + 1",
        "test_theory.py test_continual.py",
    ),
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
        "torch.add(after, force, alpha=self.epsilon)",
        "torch.add(after, force)",
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
        "self.rho.derivative(s, rate) * current",
        "current",
        "test_networks.py",
    ),
    Defect(
        "transposed weight on the way down",
        "connections.py",
        "torch.addmm(onto, upper, weight)",
        "torch.addmm(onto, upper, weight.t().reshape(weight.shape))",
        "test_networks.py",
    ),
    Defect(
        "half of the learning rule lost",
        "connections.py",
        'gradients["weight"].addmm_(upper_before.t(), nearby)',
        "pass",
        "test_networks.py test_golden.py",
    ),
    Defect(
        "sum over the batch instead of its mean",
        "connections.py",
        "scale /= len(upper_after)\n        gradients",
        "gradients",
        "test_networks.py test_golden.py",
    ),
    Defect(
        "convolution: sum over the batch instead of its mean",
        "connections.py",
        "scale /= len(upper_after)\n        if",
        "if",
        "test_networks.py test_golden.py",
    ),
    Defect(
        "convolution: half of the learning rule lost",
        "connections.py",
        "torch.cat((moved, image_before))",
        "torch.cat((moved, 0 * image_before))",
        "test_networks.py test_golden.py",
    ),
    Defect(
        "convolution: switches of the wrong state in the learning rule",
        "connections.py",
        "switches = self.switches(torch.cat((lower_after, lower_before)))",
        "switches = self.switches(torch.cat((lower_before, lower_before)))",
        "test_networks.py",
    ),
    Defect(
        "convolution: pixels that no kernel reaches left out on the way down",
        "connections.py",
        "output_padding=missed,",
        "",
        "test_networks.py",
    ),
    Defect(
        "convolution: average not divided by the size of the window",
        "connections.py",
        "upper / self.pool**2",
        "upper",
        "test_networks.py",
    ),
    Defect(
        "convolution: what fills no window pooled into the wrong place",
        "connections.py",
        "(0, width, 0, height)",
        "(width, 0, height, 0)",
        "test_networks.py",
    ),
    Defect(
        "alternating updates that all see the old state",
        "networks.py",
        "rates[index] = self.rate(layers[index])",
        "pass",
        "test_networks.py",
    ),
    Defect(
        "alternating updates that begin with the wrong half",
        "networks.py",
        "for first in (1, 0):",
        "for first in (0, 1):",
        "test_networks.py",
    ),
    Defect(
        "alternating updates that nudge no output",
        "networks.py",
        "self.settle(field, force if index == last else None)",
        "self.settle(field)",
        "test_networks.py",
    ),
    Defect(
        "a cosine of epochs instead of mini-batches",
        "build.py",
        "total=experiment.epochs * batches",
        "total=experiment.epochs",
        "test_build.py",
    ),
    Defect(
        "a resumed schedule that begins anew",
        "build.py",
        "last_epoch=done * batches - 1",
        "last_epoch=-1",
        "test_command_line.py -k killed",
    ),
    Defect(
        "theorem: a shared connection left with other weights",
        "processes.py",
        "(function, *arguments), tie_weights=False)",
        "(function, *arguments))",
        "test_processes.py -k shared",
    ),
    Defect(
        "theorem: layers updated in turn not told from others",
        "processes.py",
        "in_turn=model.in_turn",
        "in_turn=False",
        "test_processes.py -k in_turn",
    ),
    Defect(
        "images not shifted in training",
        "training.py",
        "x = augmentation(x, generator)",
        "pass",
        "test_training.py",
    ),
    Defect(
        "alternating updates lost on the way to the network",
        "build.py",
        "experiment.activation, updates=experiment.updates",
        "experiment.activation",
        "test_build.py",
    ),
    Defect(
        "shifts the same in both directions",
        "augmentation.py",
        "columns = corner[1]",
        "columns = corner[0]",
        "test_augmentation.py",
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
        "return self.rate(x.reshape(len(x), *shape))",
        "return x.reshape(len(x), *shape)",
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
        "zip(self.chain, learning_rates, strict=True)",
        "zip(self.chain, reversed(list(learning_rates)), strict=True)",
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
        'temporary = path.with_name(f".{path.name}.part")',
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
    Defect(
        "one layer's gradient taken through another's",
        "models.py",
        "s.view_as(s) if s.requires_grad",
        "s if s.requires_grad",
        "test_theory.py",
    ),
    Defect(
        "gradient of a shared connection lost",
        "networks.py",
        "gradients[name] + gradient if name in gradients else gradient",
        "gradient",
        "test_theory.py test_processes.py",
    ),
    Defect(
        "gradients that share memory",
        "models.py",
        "gradient.clone() if shared else gradient",
        "gradient",
        "test_theory.py",
    ),
    Defect(
        "an infinite adjoint taken for a solution",
        "estimators/recurrent_backpropagation.py",
        "if not size.isfinite():",
        "if False:",
        "test_theory.py",
    ),
    Defect(
        "train error counting what is right",
        "training.py",
        "wrong += (output.argmax(1) != labels).sum()",
        "wrong += (output.argmax(1) == labels).sum()",
        "test_training.py",
    ),
    Defect(
        "mean loss over mini-batches instead of samples",
        "training.py",
        "train_loss=loss.item() / samples",
        "train_loss=loss.item() / batches",
        "test_training.py",
    ),
    Defect(
        "residual of the last batch alone",
        "evaluation.py",
        "worst = tuple(map(max, worst, last)) if worst else last",
        "worst = last",
        "test_training.py",
    ),
    Defect(
        "parameters not looked at before they are stored",
        "training.py",
        '_require_finite(model, f"at the end of epoch {epoch}")',
        "pass",
        "test_training.py",
    ),
    Defect("nudging ignored", "build.py", "experiment.nudging,", '"one-sided",', "test_build.py"),
    Defect(
        "settings changed behind the checkpoint's back",
        "run_folder.py",
        'if name != "epochs" and written.get(name) != value:',
        "if False:",
        "test_command_line.py -k changed_by_hand",
    ),
    Defect(
        "two processes in one run",
        "run_folder.py",
        "lock.acquire()",
        "pass",
        "test_command_line.py -k another_process",
    ),
    Defect(
        "altered archive accepted",
        "archives.py",
        "if found_in != file.content_sha256:",
        "if False:",
        "test_archives.py",
    ),
    # Theorem 1
    Defect(
        "processes: wrong sign of Δ_θ",
        PROCESSES,
        "contrast_gradients(x, state, after, anchor, 1 / beta)",
        "contrast_gradients(x, state, after, anchor, -1 / beta)",
        "test_processes.py",
    ),
    Defect(
        "processes: factor 2 in Δ_θ",
        PROCESSES,
        "contrast_gradients(x, state, after, anchor, 1 / beta)",
        "contrast_gradients(x, state, after, anchor, 2 / beta)",
        "test_processes.py",
    ),
    Defect(
        "processes: Δ_s without ε",
        PROCESSES,
        "(new - old) / (model.epsilon * beta)",
        "(new - old) / beta",
        "test_processes.py",
    ),
    Defect(
        "processes: BPTT in the order of time",
        PROCESSES,
        "in zip(reversed(path), reversed(copies), strict=True)",
        "in zip(path, copies, strict=True)",
        "test_processes.py",
    ),
    Defect(
        "processes: drive of BPTT from the model, not from the copy",
        PROCESSES,
        "return copy.step(copy.drive(x), state)",
        "return copy.step(model.drive(x).detach(), state)",
        "test_processes.py",
    ),
    Defect(
        "processes: continual updates the wrong way",
        PROCESSES,
        "(p + rates[name] * gradients[name])",
        "(p - rates[name] * gradients[name])",
        "test_processes.py",
    ),
    Defect(
        "processes: vector field anchored at the wrong state",
        PROCESSES,
        "anchor = free.state if rates is None else state",
        "anchor = state",
        "test_processes.py",
    ),
    Defect(
        "agreement: error against the gradient instead of minus it",
        "agreement.py",
        "v = -gradient",
        "v = gradient",
        "test_processes.py",
    ),
    Defect(
        "agreement: biases counted among the weights",
        "agreement.py",
        "if p.dim() > 2]",
        "if p.dim() > 1]",
        "test_processes.py",
    ),
    Defect(
        "theorem: trained weights not restored",
        "theorem_command.py",
        "checkpoint.restore_model(network)",
        "pass",
        "test_theorem_command.py -k run",
    ),
    Defect(
        "theorem: slope over points whose premise fails",
        "theorem.py",
        "            if holds\n        ]",
        "        ]",
        "test_theorem_command.py -k premise",
    ),
    Defect(
        "show: difference of the steady states not divided by β",
        "settling.py",
        "tuple((b - a) / apart for",
        "tuple((b - a) for",
        "test_show.py -k difference",
    ),
    Defect(
        "show: error read off a step too early",
        "settling.py",
        "max(steps)), 1):",
        "max(steps)), 0):",
        "test_show.py -k error",
    ),
    Defect(
        "show: nudged phase from s₀",
        "settling.py",
        "drive=drive, state=free, force=force",
        "drive=drive, force=force",
        "test_show.py -k difference",
    ),
    Defect(
        "show: weights as they began",
        "show_command.py",
        "checkpoint.restore_model(network)",
        "pass",
        "test_show.py -k checkpoint",
    ),
    Defect(
        "show: a residual of 0 on a plain logarithm",
        "pictures.py",
        "if len(positive) == len(values):",
        "if positive:",
        "test_show.py -k logarithm",
    ),
    Defect(
        "continual updates with the wrong sign",
        CONTINUAL,
        "before, -1 / beta, only)",
        "before, 1 / beta, only)",
        "test_continual.py test_golden.py",
    ),
    Defect(
        "continual updates that compare a state with itself",
        CONTINUAL,
        "contrast_gradients(x, before, after, before,",
        "contrast_gradients(x, before, before, before,",
        "test_continual.py",
    ),
    Defect(
        "a vector field taken at the state after",
        CONTINUAL,
        "contrast_gradients(x, before, after, before,",
        "contrast_gradients(x, before, after, after,",
        "test_continual.py test_golden.py",
    ),
    Defect(
        "a drive that does not follow the weights",
        CONTINUAL,
        "torch.add(drive, telescope.follow(before, after), alpha=1 / beta)",
        "drive",
        "test_continual.py",
    ),
    Defect(
        "a drive that follows with β instead of 1/β",
        CONTINUAL,
        "alpha=1 / beta)",
        "alpha=beta)",
        "test_continual.py",
    ),
    Defect(
        "a drive computed once where its weights move",
        CONTINUAL,
        "            if telescope is None:\n                drive = model.drive(x)",
        "            if telescope is None:\n                pass",
        "test_continual.py",
    ),
    Defect(
        "the waiting updates forgotten",
        CONTINUAL,
        "            learn(free.state, nudged.state, waiting)",
        "            pass",
        "test_continual.py test_golden.py",
    ),
    Defect(
        "a drive that is changed in place",
        CONTINUAL,
        "drive = torch.add(drive, telescope",
        "drive = drive.add_(telescope",
        "test_continual.py",
    ),
    Defect(
        "hooks of the optimizer that wait for the end",
        CONTINUAL,
        "and not hooks",
        "",
        "test_continual.py",
    ),
    Defect(
        "momentum taken for plain descent",
        CONTINUAL,
        'group["momentum"] or ',
        "",
        "test_continual.py",
    ),
    Defect(
        "weight decay taken for plain descent",
        CONTINUAL,
        'group["weight_decay"] or ',
        "",
        "test_continual.py",
    ),
    Defect(
        "ascent taken for descent",
        CONTINUAL,
        ' or group["maximize"]',
        "",
        "test_continual.py",
    ),
    Defect(
        "leftover gradients learnt",
        CONTINUAL,
        "        self.optimizer.zero_grad()\n\n        def learn",
        "        def learn",
        "test_continual.py",
    ),
    Defect(
        "gradients left behind",
        CONTINUAL,
        "        finally:\n            self.optimizer.zero_grad()",
        "        finally:\n            pass",
        "test_continual.py",
    ),
    Defect(
        "frozen parameters followed by the drive",
        CONTINUAL,
        "if p.requires_grad and id(p) in rates",
        "if id(p) in rates",
        "test_continual.py",
    ),
    Defect(
        "continual updates whose sign is not random",
        CONTINUAL,
        "beta *= random_sign(generator)",
        "pass",
        "test_continual.py",
    ),
    Defect(
        "a kernel without the bias",
        "connections.py",
        ' + rates.get("bias", 0.0)',
        "",
        "test_continual.py",
    ),
    Defect(
        "a kernel that forgets the batch mean",
        "networks.py",
        "rates.get(names[p], 0.0) / len(x)",
        "rates.get(names[p], 0.0)",
        "test_continual.py",
    ),
    Defect(
        "a shared first connection whose updates wait",
        "networks.py",
        "if first in others or any(id(p) in own.values() for c in others for p in c.parameters()):",
        "if False:",
        "test_continual.py",
    ),
    Defect(
        "backward weights that are the forward ones",
        "connections.py",
        "self.upward.transposed(self.backward_weight,",
        "self.upward.transposed(self.upward.weight,",
        "test_untied.py",
    ),
    Defect(
        "signs flipped with twice the probability",
        "connections.py",
        "< (1 - math.cos(math.radians(angle))) / 2",
        "< (1 - math.cos(math.radians(angle)))",
        "test_untied.py",
    ),
    Defect(
        "a weight angle of half its size",
        "connections.py",
        "math.degrees(2 * math.atan2",
        "math.degrees(math.atan2",
        "test_untied.py",
    ),
    Defect(
        "backward weights that learn from the layer above moving",
        "connections.py",
        "moved_lower, upper * scale, self.upward.switches(lower)",
        "lower, moved_upper * scale, self.upward.switches(lower)",
        "test_untied.py",
    ),
    Defect(
        "ρ′ left out of the rule of vector fields",
        "networks.py",
        "return self.rho.derivative(s, self.rho(s)) * moved",
        "return moved",
        "test_untied.py",
    ),
    Defect(
        "the rule of vector fields at the state before",
        "networks.py",
        "zip(anchor, before, after, strict=True)",
        "zip(before, before, after, strict=True)",
        "test_untied.py",
    ),
    Defect(
        "a weight angle that unties nothing",
        "build.py",
        "connections = untied(connections, experiment.weight_angle)",
        "pass",
        "test_build.py test_untied.py",
    ),
    Defect(
        "reproduce: finished runs trained again",
        "reproduce_command.py",
        "(run for run in runs if not run.finished),",
        "(run for run in runs),",
        "test_reproduce.py -k finished",
    ),
    Defect(
        "reproduce: the last epoch of a run that went on counts",
        "reproduce_command.py",
        "self.folder.read_metrics()[: self.wanted]",
        "self.folder.read_metrics()[-self.wanted :]",
        "test_reproduce.py -k went_on",
    ),
    Defect(
        "reproduce: one run more at a time than workers",
        "jobs.py",
        "while waiting and len(running) < workers:",
        "while waiting and len(running) <= workers:",
        "test_reproduce.py -k workers",
    ),
    Defect(
        "reproduce: runs that outlive the command",
        "jobs.py",
        "_end([process for _, process, _ in running.values()])",
        "pass",
        "test_reproduce.py -k outlives",
    ),
    Defect(
        "reproduce: the angle measured on another network",
        "gradient_angle.py",
        'replace(experiment, dtype="float64")',
        'replace(experiment, dtype="float64", seed=0)',
        "test_reproduce.py -k first_step",
    ),
    Defect(
        "reproduce: the whole sum taken for the published one",
        "gradient_angle.py",
        "steps[1:] for name, steps",
        "steps for name, steps",
        "test_reproduce.py -k as_published",
    ),
    Defect(
        "reproduce: the angle measured with weights held still",
        "gradient_angle.py",
        'experiment.learning_rates if experiment.estimator == "c-ep" else None',
        "None",
        "test_reproduce.py -k first_step",
    ),
    Defect(
        "theorem --angle that unties nothing",
        "cli.py",
        'experiment.override({"weight_angle": options.angle})',
        "experiment",
        "test_theorem_command.py -k turn",
    ),
]


def caught(defect: Defect) -> bool:
    """Whether the tests fail once the defect is planted."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "eqprop"
        shutil.copytree(ROOT / "src" / "eqprop", copy)
        path = copy / defect.file
        path.write_text(path.read_text().replace(defect.old, defect.new))
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
    for defect in chosen:
        places = (ROOT / "src" / "eqprop" / defect.file).read_text().count(defect.old)
        if places != 1:
            raise SystemExit(
                f"{defect.description}: expected {defect.old!r} once in {defect.file}, "
                f"found it {places} times"
            )
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        for defect, found in zip(chosen, workers.map(caught, chosen), strict=True):
            print(f"{'caught' if found else 'MISSED'}  {defect.description}", flush=True)
            if not found:
                missed.append(defect)
    print(f"{len(chosen) - len(missed)} of {len(chosen)} planted defects caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
