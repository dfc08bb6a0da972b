"""Presets: the published experiments, and some of our own.

All published ones learn MNIST in mini-batches of 20 by plain SGD, with weights initialised as
``torch.nn.Linear`` and ``Conv2d`` do, on the squared error.

``c-ep`` are those of continual updates (C-EP), ``c-vf`` the same with untied weights (C-VF), whose
angle at the start is 0° unless ``weight_angle`` says otherwise. With untied weights and updates at
the end of the nudged phase (VF) nothing was published: ``vf-1h`` and ``vf-2h`` have T, K, β and its
random sign from the former and the learning rates of ``p-1h`` and ``p-2h``.

Our own are those on data that comes with the installation, and the ``-fast`` ones: the published
networks by recipes that need a fraction of the time for a smaller error. What they have in common,
and why:

- Alternating updates settle in about half the steps, and never go to and fro. Networks with several
  hidden layers settle every sample to a tolerance; T and K are then the most steps allowed.
- Symmetric nudging follows the gradient to second order in β, and cancels what is left of a free
  phase that was cut short. Adam follows it, with rates that fall to 0 like half a cosine, on
  mini-batches of 100.
- Training images are moved by up to a pixel each way, as otherwise all are learnt by heart.
- In real time ε = 0.5 leads to the same steady states as 0.2, in fewer steps. With two hidden
  layers 88 % of the samples then still moved after 60 of them, as some units go to and fro near 1;
  Newton's steps settle all samples, in 9 on average.
  Inputs are sent as ρ(x), 0.12 to 0.88 of those in [0, 1]: of mean 0 and deviation 1 they are
  learnt faster (test error after three epochs 2.6 instead of 3.6 %, seed 0).
- Continual updates are one-sided, and Adam, which makes small late steps large, spoils them. What
  limits their learning rate is feedback: weights that move with the nudge move the state further
  the same way, by a factor of about η ‖x‖² / β in every step, and beyond 1 it runs away.
  With β = −1 the feedback is negative, and the nudge is as strong as it can be; K = 3 gives it few
  steps to add up. So plain gradient descent learns at twenty times the published rate. With untied
  weights the rate above the first layer is small, as the backward weights, which move by the same
  one, would otherwise shrink and turn away from the forward ones.
- ``cifar-10-small``: inputs of mean 0 and deviation 1 are learnt faster than those in [0, 1] (train
  error about image 10 000 of the first epoch: 62 instead of 77 %, seed 0), with initial weights of
  0.7 times the usual size still faster (about image 15 000: 54 instead of 57), with T = 8, K = 4
  as fast as with 12, 5.
- ``p-conv-fast``: larger rates above the first layer make it settle more slowly; T = 6, K = 3 then
  got worse from the second epoch, T = 8 ended at 0.69 % after nine (seed 0; rates 0.0005, 0.001).

- ``asym-ep-2h``: what AsymEP adds is linear, while units saturate. Of 25 mini-batches of a network
  of three epochs updates were 14° off the gradient with β = 0.2 (41° at most), 1.1° (15°) with 0.05
  and 0.0° (0.4°) with 0.01; training with 0.2 went from 2.8 to 14.5 % in its third epoch (seed 0).

``cifar-10`` has the recipe of https://arxiv.org/abs/2006.03824 with a softmax readout; rates, K and
β are those of its code. It has not been run here.

Source: https://arxiv.org/abs/1905.13633, Table 1; https://arxiv.org/abs/2005.04168, figure 4; and
the commands published with them.
"""

import difflib
from dataclasses import dataclass
from typing import Any, final

from eqprop.errors import ConfigurationError
from eqprop.settings.experiment import Experiment

__all__ = ["PRESETS", "Preset", "preset"]


@final
@dataclass(frozen=True)
class Preset:
    """An experiment with a name, and what was published about it.

    Attributes:
        description: in a few words.
        experiment: all settings.
        published_ep: published test error of EP in %, mean ± standard deviation over 5 trials, with
            the train error in brackets; empty if there is none.
        published_bptt: the same for BPTT.
    """

    description: str
    experiment: Experiment
    published_ep: str = ""
    published_bptt: str = ""


def _published(
    hidden: int, T: int, K: int, beta: float, rates: tuple[float, ...], epochs: int, **others: Any
) -> Experiment:
    """MNIST with so many hidden layers of 512 units, nudged one-sided unless said otherwise."""
    network = {"dataset": "mnist", "hidden": (512,) * hidden, "nudging": "one-sided"}
    phases = {"free_steps": T, "nudged_steps": K, "beta": beta}
    return Experiment(**{**network, **phases, "learning_rates": rates, "epochs": epochs, **others})


_C_EP: dict[str, Any] = {"estimator": "c-ep"}
_VF: dict[str, Any] = {"weight_angle": 0.0, "nudging": "random-sign"}
_CONV: dict[str, Any] = {"channels": (32, 64), "activation": "hard-sigmoid"}
_FEW_STEPS: dict[str, Any] = {"updates": "alternating", "optimizer": "adam", "schedule": "cosine"}
_FAST: dict[str, Any] = {**_FEW_STEPS, "nudging": "symmetric", "shift": 1, "batch_size": 100}
_EB_2H_FAST: dict[str, Any] = {
    **_FAST,
    "network": "real-time",
    "updates": "newton",
    "normalize": 1.0,
    "tolerance": 0.03,
}
_C_FAST: dict[str, Any] = {"updates": "alternating", "schedule": "cosine", "shift": 1}
_2H_FAST = _published(2, 30, 10, 0.2, (0.002, 0.001, 0.001), 10, **_FAST, tolerance=0.03)
_DIGITS_C: dict[str, Any] = {**_C_EP, "nudging": "random-sign", "learning_rates": (0.05, 0.025)}
_DIGITS_EB: dict[str, Any] = {
    "network": "real-time",
    "epsilon": 0.5,
    "clip": False,
    "free_steps": 40,
}
_DIGITS_DEEP_EB: dict[str, Any] = {
    **_DIGITS_EB,
    "nudged_steps": 15,
    "optimizer": "adam",
    "learning_rates": (0.005,),
}
_DIGITS_OPPOSITE: dict[str, Any] = {
    "hidden": (64, 64),
    "weight_angle": 180.0,
    "learning_rates": (0.1, 0.1, 0.05),
}

PRESETS: dict[str, Preset] = {
    "digits": Preset("8×8 digits, no download: learns in seconds", Experiment()),
    "digits-eb": Preset(
        "8×8 digits, real-time, no clip: EP is exact",
        Experiment(**_DIGITS_EB),
    ),
    "eb-1h": Preset(
        "real-time, one hidden layer",
        _published(1, 100, 12, 0.5, (0.1, 0.05), 30, network="real-time"),
        "2.06 ± 0.17 (0.13)",
        "2.11 ± 0.09",
    ),
    "eb-2h": Preset(
        "real-time, two hidden layers",
        _published(2, 400, 40, 0.5, (0.4, 0.1, 0.01), 50, network="real-time"),
        "2.01 ± 0.21 (0.11)",
        "2.02 ± 0.12",
    ),
    "p-1h": Preset(
        "prototypical, one hidden layer",
        _published(1, 30, 10, 0.1, (0.08, 0.04), 30),
        "2.00 ± 0.13 (0.20)",
        "2.00 ± 0.12",
    ),
    "p-2h": Preset(
        "prototypical, two hidden layers",
        _published(2, 100, 20, 0.5, (0.2, 0.05, 0.005), 50),
        "1.95 ± 0.10 (0.14)",
        "2.09 ± 0.12",
    ),
    "p-3h": Preset(
        "prototypical, three hidden layers",
        _published(3, 180, 20, 0.5, (0.2, 0.05, 0.01, 0.002), 100),
        "2.01 ± 0.18 (0.10)",
        "2.30 ± 0.17",
    ),
    "p-conv": Preset(
        "prototypical, two convolutions",
        _published(0, 200, 10, 0.4, (0.15, 0.035, 0.015), 40, **_CONV),
        "1.02 ± 0.04 (0.54)",
        "0.88 ± 0.06",
    ),
    "c-ep-1h": Preset(
        "continual updates, one hidden layer",
        _published(1, 40, 15, 0.2, (0.0056, 0.0028), 100, **_C_EP),
        "2.28 ± 0.16 (0.41)",
    ),
    "c-ep-2h": Preset(
        "continual updates, two hidden layers",
        _published(2, 100, 20, 0.5, (0.01, 0.0018, 0.00018), 150, **_C_EP),
        "2.44 ± 0.14 (0.31)",
    ),
    "vf-1h": Preset(
        "untied weights, one hidden layer",
        _published(1, 40, 15, 0.2, (0.08, 0.04), 30, **_VF),
    ),
    "vf-2h": Preset(
        "untied weights, two hidden layers",
        _published(2, 100, 20, 0.35, (0.2, 0.05, 0.005), 50, **_VF),
    ),
    "c-vf-1h": Preset(
        "continual, untied weights, one hidden layer",
        _published(1, 40, 15, 0.2, (0.0076, 0.0038), 100, **_C_EP, **_VF),
        "2.43 ± 0.08 (0.77)",
    ),
    "c-vf-2h": Preset(
        "continual, untied weights, two hidden layers",
        _published(2, 100, 20, 0.35, (0.009, 0.0016, 0.00016), 150, **_C_EP, **_VF),
        "2.97 ± 0.19 (1.58)",
    ),
    "p-1h-fast": Preset(
        "p-1h by our own recipe",
        _published(1, 8, 4, 0.2, (0.002, 0.001), 12, **_FAST),
    ),
    "p-2h-fast": Preset(
        "p-2h by our own recipe",
        _2H_FAST,
    ),
    "p-3h-fast": Preset(
        "p-3h by our own recipe",
        _published(3, 60, 15, 0.2, (0.002, 0.001, 0.001, 0.001), 8, **_FAST, tolerance=0.03),
    ),
    "eb-1h-fast": Preset(
        "eb-1h by our own recipe",
        _published(1, 40, 8, 0.5, (0.001, 0.0005), 20, **_FAST, network="real-time", epsilon=0.5),
    ),
    "eb-2h-fast": Preset(
        "eb-2h by our own recipe",
        _published(2, 40, 12, 0.2, (0.001, 0.00025, 0.0005), 12, **_EB_2H_FAST),
    ),
    "p-conv-fast": Preset(
        "p-conv by our own recipe",
        _published(0, 10, 4, 0.4, (0.001, 0.0002, 0.0005), 8, **_CONV, **_FAST).override(
            {"batch_size": 50, "threads": 2}
        ),
    ),
    "c-ep-1h-fast": Preset(
        "c-ep-1h by our own recipe",
        _published(1, 8, 3, -1.0, (0.12, 0.03), 25, **_C_EP, **_C_FAST),
    ),
    "c-ep-2h-fast": Preset(
        "c-ep-2h by our own recipe",
        _published(2, 20, 4, -1.0, (0.1, 0.02, 0.005), 20, **_C_EP, **_C_FAST),
    ),
    "c-vf-1h-fast": Preset(
        "c-vf-1h by our own recipe",
        _published(1, 8, 3, -1.0, (0.15, 0.003), 30, **_C_EP, **_C_FAST, weight_angle=0.0),
    ),
    "c-vf-2h-fast": Preset(
        "c-vf-2h by our own recipe",
        _published(2, 15, 4, -1.0, (0.1, 0.02, 0.002), 40, **_C_EP, **_C_FAST, weight_angle=0.0)
        # Moved images would be more than it learns.
        .override({"shift": 0, "backward_rate": 0.1}),
    ),
    "asym-ep-2h": Preset(
        "opposite weights, two hidden layers, AsymEP",
        _2H_FAST.override({"weight_angle": 180.0, "estimator": "asym-ep", "beta": 0.01}),
    ),
    "dyadic-2h": Preset(
        "opposite weights, two hidden layers, dyadic EP",
        # A difference that is small is not one that rests: the tolerance would end it too early.
        _2H_FAST.override({"weight_angle": 180.0, "estimator": "dyadic-ep", "tolerance": None}),
    ),
    "holo-1h": Preset(
        "one hidden layer, holomorphic EP, a strong nudge",
        _published(1, 8, 4, 0.5, (0.002, 0.001), 12, **_FAST, estimator="holomorphic-ep"),
    ),
    "cifar-10": Preset(
        "CIFAR-10, four convolutions; the recipe of 2006.03824 with a softmax readout, for a GPU",
        Experiment(
            dataset="cifar-10",
            normalize=3.0,
            channels=(128, 256, 512, 512),
            kernel=(3,),
            padding=(1, 1, 1, 0),
            hidden=(),
            activation="half-hard-sigmoid",
            readout="softmax",
            cost="cross-entropy",
            nudge="inside",
            nudging="symmetric",
            beta=1.0,
            free_steps=250,
            nudged_steps=25,
            optimizer="sgd",
            momentum=0.9,
            weight_decay=(3e-4,),
            learning_rates=(0.25, 0.15, 0.1, 0.08, 0.05),
            schedule="cosine",
            schedule_floor=2e-4,
            schedule_epochs=100,
            schedule_step="epoch",
            epochs=120,
            batch_size=128,
            flip=True,
            shift=4,
            shift_fill="edge",
            device="cuda",
        ),
    ),
    "cifar-10-small": Preset(
        "CIFAR-10, three small convolutions by our own recipe, for two cores",
        Experiment(
            **{**_CONV, **_FEW_STEPS, "channels": (32, 64, 128), "kernel": (3,), "padding": (1,)},
            dataset="cifar-10",
            normalize=1.0,
            gains=(0.7,),
            hidden=(),
            nudging="symmetric",
            beta=0.4,
            free_steps=8,
            nudged_steps=4,
            learning_rates=(0.001, 0.0003, 0.0003, 0.0005),
            epochs=8,
            batch_size=50,
            flip=True,
            shift=2,
            shift_fill="edge",
            threads=2,
        ),
    ),
    "digits-conv": Preset(
        "8×8 digits, two small convolutions",
        Experiment(
            **{**_CONV, **_FEW_STEPS, "channels": (16, 32), "kernel": (3,), "padding": (1,)},
            hidden=(),
            free_steps=10,
            nudged_steps=5,
            beta=0.4,
            learning_rates=(0.003, 0.003, 0.003),
            epochs=10,
        ),
    ),
    "digits-c-ep": Preset("8×8 digits, continual updates", Experiment(**_DIGITS_C)),
    "digits-vf": Preset("8×8 digits, untied weights", Experiment(weight_angle=0.0)),
    "digits-asym-ep": Preset(
        "8×8 digits, opposite weights, AsymEP",
        Experiment(**_DIGITS_OPPOSITE, estimator="asym-ep"),
    ),
    "digits-dyadic": Preset(
        "8×8 digits, opposite weights, dyadic EP",
        Experiment(**_DIGITS_OPPOSITE, estimator="dyadic-ep"),
    ),
    "digits-c-asym": Preset(
        "8×8 digits, opposite weights, continual AsymEP",
        Experiment(**_DIGITS_OPPOSITE, estimator="c-asym-ep"),
    ),
    "digits-c-vf": Preset(
        "8×8 digits, continual, untied weights", Experiment(**_DIGITS_C, weight_angle=0.0)
    ),
    "digits-holo": Preset(
        "8×8 digits, holomorphic EP", Experiment(estimator="holomorphic-ep", points=4)
    ),
    "digits-homeo": Preset(
        "8×8 digits, weights 90° apart, homeostasis",
        Experiment(
            **_DIGITS_DEEP_EB, hidden=(32, 32), weight_angle=90.0, homeostasis=1.0, beta=0.2
        ),
    ),
    "digits-scaled": Preset(
        "8×8 digits, real-time, weak way down",
        Experiment(**_DIGITS_DEEP_EB, hidden=(64, 64), feedback=0.2),
    ),
    "digits-noise": Preset(
        "8×8 digits, noise on the states, holomorphic EP",
        Experiment(estimator="holomorphic-ep", points=4, state_noise=0.04),
    ),
    "digits-4-bit": Preset("8×8 digits, weights of 4 bits", Experiment(weight_bits=4)),
    "digits-binary": Preset("8×8 digits, binary weights", Experiment(flip_threshold=1e-4)),
    "digits-devices": Preset(
        "8×8 digits, noise, mismatch, 6 bits, soft bounds",
        Experiment(
            state_noise=0.02,
            gain_spread=0.2,
            offset_spread=0.1,
            synapse_spread=0.3,
            weight_bits=6,
            write_nonlinearity=1.0,
        ),
    ),
}
"""The experiments that have names, published ones and our own."""


def preset(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        ConfigurationError: there is none.
    """
    # A TOML file may have anything there, lists too.
    if not isinstance(name, str) or name not in PRESETS:
        near = difflib.get_close_matches(str(name), PRESETS, n=1)
        all_of_them = f"one of {', '.join(PRESETS)}"
        nearest = [f"one that eqprop presets lists (did you mean {one}?)" for one in near]
        raise ConfigurationError("preset", name, (nearest or [all_of_them])[0])
    return PRESETS[name].experiment
