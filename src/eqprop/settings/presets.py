"""Presets: the published experiments, and some of our own.

All published ones learn MNIST in mini-batches of 20 by plain SGD, with weights initialised as
``torch.nn.Linear`` and ``Conv2d`` do, on the squared error.

``c-ep`` are those of continual updates (C-EP), ``c-vf`` the same with untied weights (C-VF), whose
angle at the start is 0° unless ``weight_angle`` says otherwise. With untied weights and updates at
the end of the nudged phase (VF) nothing was published: ``vf-1h`` and ``vf-2h`` have T, K, β and its
random sign from the former and the learning rates of ``p-1h`` and ``p-2h``.

Our own are those on data that comes with the installation, and ``p-conv-fast``, the published
network with convolutions by another recipe: alternating updates, T = 10 and K = 4 instead of 200
and 10, symmetric nudging, Adam with rates that fall to 0 like half a cosine, mini-batches of 50,
training images moved by up to a pixel, 4 epochs. With T = 6 and K = 3, and rates at least twice as
large above the first layer, it answered before it had settled, and got worse from its second epoch.

Source: https://arxiv.org/abs/1905.13633, Table 1; https://arxiv.org/abs/2005.04168, figure 4; and
the commands published with them.
"""

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
_DIGITS_C: dict[str, Any] = {**_C_EP, "nudging": "random-sign", "learning_rates": (0.05, 0.025)}

PRESETS: dict[str, Preset] = {
    "digits": Preset("8×8 digits, no download: learns in seconds", Experiment()),
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
    "p-conv-fast": Preset(
        "the same network by our own recipe",
        _published(0, 10, 4, 0.4, (0.001, 0.0002, 0.0005), 4, **_CONV).override(
            {**_FEW_STEPS, "nudging": "symmetric", "shift": 1, "batch_size": 50, "threads": 2}
        ),
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
    "digits-c-vf": Preset(
        "8×8 digits, continual, untied weights", Experiment(**_DIGITS_C, weight_angle=0.0)
    ),
}


def preset(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        ConfigurationError: there is none.
    """
    # A TOML file may have anything there, lists too.
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigurationError("preset", name, f"one of {', '.join(PRESETS)}")
    return PRESETS[name].experiment
