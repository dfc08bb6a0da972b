"""An experiment: every setting of a training run, typed and validated.

It knows nothing of torch; :mod:`eqprop.runs.build` makes the objects it describes. What an
estimator refuses (K > T in BPTT) it refuses itself, once it is built.
"""

import re
from dataclasses import dataclass
from functools import partial
from typing import Literal, final

from eqprop.errors import shown
from eqprop.registries import ACTIVATIONS, COSTS, DATASETS, ESTIMATORS
from eqprop.settings.fields import Settings, device, each, nonzero, number, setting, whole

__all__ = ["Experiment"]

_LINK = re.compile(r"[0-9]{1,4}-[0-9]{1,4}")

# A heading of `--help` each.
_data = partial(setting, group="data")
_network = partial(setting, group="network")
_estimator = partial(setting, group="estimator")
_optimisation = partial(setting, group="optimisation")
_hardware = partial(setting, group="hardware", since="0.2")
_machine = partial(setting, group="machine")

_SIZES = each("whole numbers from 1 to 1000000", lambda n: 1 <= n <= 10**6)


@final
@dataclass(frozen=True, kw_only=True)
class Experiment(Settings):
    """Settings of one training run; layers and learning rates are listed input side first.

    The defaults learn the embedded digits.

    Raises:
        ConfigurationError: a setting of the wrong type or outside what is allowed.
    """

    dataset: str = _data("digits", "what to learn", choices=DATASETS)
    test_share: float = _data(
        0.2,
        "the share of the samples to test on, drawn with the seed, of data that has no test "
        "samples of its own (npz:, regression:, folder:)",
        allowed=number("a number between 0 and 1", lambda x: 0 < x < 1),
        since="0.1",
    )
    validation_share: float = _data(
        0.0,
        "the share of the training samples, drawn with the seed, on which the test error is "
        "measured instead of on the test samples, and from which nothing is learnt: to choose "
        "settings by",
        allowed=number("a number from 0 to below 1", lambda x: 0 <= x < 1),
        since="0.1",
    )
    normalize: float | None = _data(
        None,
        "subtract from each channel of the inputs, or column of a table, its mean over the "
        "training samples, and divide it by so many of its standard deviations; none leaves inputs "
        "in [0, 1]",
        allowed=number("a finite number > 0, or none", lambda x: x > 0),
        since="0.1",
        metavar="DEVIATIONS",
    )
    network: Literal["prototypical", "real-time"] = _network(
        "prototypical", "discrete-time or real-time dynamics"
    )
    channels: tuple[int, ...] = _network(
        (),
        "channels of the convolutional layers, if any, below the dense ones",
        allowed=_SIZES,
        since="0.1",
    )
    kernel: tuple[int, ...] = _network(
        (5,), "side of the kernels: one number for all convolutions, or one for each", since="0.1"
    )
    stride: tuple[int, ...] = _network((1,), "steps of the kernels, likewise", since="0.1")
    padding: tuple[int, ...] = _network((0,), "zeros around the images, likewise", since="0.1")
    pool: tuple[int, ...] = _network(
        (2,), "side of the pooling windows, likewise; 1 does not pool", since="0.1"
    )
    pooling: Literal["max", "average"] = _network(
        "max", "what a window gives: its largest value or the mean", since="0.1"
    )
    hidden: tuple[int, ...] = _network((128,), "units of the dense hidden layers", allowed=_SIZES)
    links: tuple[str, ...] = _network(
        (),
        "dense connections besides those of the chain, each FROM-TO by the numbers of the layers, "
        "0 the input: 0-2 skips layer 1, 1-1 connects layer 1 with itself. They have a learning "
        "rate, a gain and a decay each, after those of the layers",
        allowed=each("pairs such as 0-2 or 1-1", lambda link: bool(_LINK.fullmatch(link))),
        since="0.1",
        metavar="FROM-TO",
    )
    activation: str = _network("scaled-sigmoid", "ρ", choices=ACTIVATIONS)
    updates: Literal["synchronous", "alternating", "newton"] = _network(
        "synchronous",
        "a step moves all layers at once, or every other one in turn, or those by Newton's method, "
        "which gives every unit of a real-time network a time step of its own",
        since="0.1",
    )
    epsilon: float = _network(
        0.2,
        "ε, the time step of real-time dynamics; newton has its own",
        allowed=number("a finite number > 0", lambda x: x > 0),
    )
    clip: bool = _network(True, "keep the states of real-time dynamics in [0, 1]")
    output_bias: float | None = _network(
        None,
        "where the biases of the output layer start; none draws them like the others. Units that "
        "hard-sigmoid clips at 0 pass no gradient to bptt and rbp, which 0.3 avoids",
        allowed=number("a finite number, or none", lambda _: True),
        since="0.1",
    )
    readout: Literal["none", "linear", "softmax"] = _network(
        "none",
        "what the output is: the last layer, or what is read off the last hidden layer outside of "
        "the dynamics, a linear function of it or the softmax of that, which cross-entropy takes "
        "itself",
        since="0.1",
    )
    gains: tuple[float, ...] = _network(
        (1.0,),
        "by what the initial weights and biases are multiplied: one number for all layers, or one "
        "for each, input side first",
        allowed=each("numbers above 0, up to 1e6", lambda x: 0 < x <= 1e6),
        since="0.1",
    )
    weight_angle: float | None = _network(
        None,
        "untie the backward from the forward weights, at first so many degrees (0 to 180) away; "
        "none ties them",
        allowed=number("degrees from 0 to 180, or none", lambda x: 0 <= x <= 180),
        since="0.1",
    )
    feedback: float = _network(
        1.0,
        "c, by what every way down is multiplied, which settles sooner; what is learnt makes up "
        "for it",
        allowed=number("a number above 0, up to 1e6", lambda x: 0 < x <= 1e6),
        since="0.2",
    )
    estimator: str = _estimator("ep", "how the gradient is estimated", choices=ESTIMATORS)
    cost: str = _estimator(
        "squared-error", "ℓ, what is to become small", choices=COSTS, since="0.1"
    )
    output_scale: float | None = _estimator(
        None,
        "by what cross-entropy multiplies the outputs before its softmax; none takes 1 with a "
        "readout and 10 without, as outputs between 0 and 1 would hardly differ in it",
        allowed=number("a finite number > 0, or none", lambda x: x > 0),
        since="0.1",
        metavar="SCALE",
    )
    class_weights: tuple[float, ...] = _estimator(
        (),
        "by what the cost of each class is multiplied, if not all count the same",
        allowed=each("finite numbers >= 0", lambda x: 0 <= x < float("inf")),
        since="0.1",
    )
    nudge: Literal["outside", "inside"] = _estimator(
        "outside",
        "where it acts in prototypical networks: added to what ρ gives, or to what ρ is given",
        since="0.1",
    )
    free_steps: int = _estimator(20, "T, steps of the free phase", allowed=whole(1))
    nudged_steps: int = _estimator(
        8,
        "K, steps of the nudged phase (bptt: steps differentiated; rbp, dyadic-ep: unused)",
        allowed=whole(1),
    )
    beta: float = _estimator(0.5, "β, strength of the nudge, of either sign", allowed=nonzero())
    nudging: Literal["one-sided", "random-sign", "symmetric"] = _estimator(
        "symmetric", "β as given, of random sign, or one nudged phase each way"
    )
    tolerance: float | None = _estimator(
        None,
        "let every sample end a phase where no unit of it moves by more than this in a step, such "
        "as 0.01; before a one-sided nudge, by more than this share of what it does to the layers "
        "below; T and K are then the most steps it may take; none takes T and K",
        allowed=number("a finite number >= 0, or none", lambda x: x >= 0),
        flag="settle",
    )
    points: int = _estimator(
        4,
        "N, points of the circle of β (holomorphic-ep alone): the error is O(β^N)",
        allowed=whole(2, 1024),
        since="0.2",
    )
    homeostasis: float = _estimator(
        0.0,
        "λ, how strongly a term besides draws the Jacobian at rest towards symmetry, such as 3, so "
        "that weights up and down find each other",
        allowed=number("a finite number >= 0", lambda x: x >= 0),
        since="0.2",
    )
    optimizer: Literal["sgd", "adam", "adamw"] = _optimisation(
        "sgd", "how weights follow; adamw decays them apart from the gradient"
    )
    learning_rates: tuple[float, ...] = _optimisation(
        (0.1, 0.05),
        "one for all, or one per layer, input side first",
        allowed=each("numbers from 0 to 1e30", lambda x: 0 <= x <= 1e30),
    )
    backward_rate: float = _optimisation(
        1.0,
        "by how much faster (or slower, below 1) the backward weights of untied connections learn",
        allowed=number("a finite number >= 0", lambda x: x >= 0),
        since="0.1",
    )
    momentum: float = _optimisation(
        0.0,
        "of sgd: every step takes along this share of the last one",
        allowed=number("a number from 0 to below 1", lambda x: 0 <= x < 1),
        since="0.1",
    )
    nesterov: bool = _optimisation(
        False, "momentum as Nesterov has it, which looks a step ahead", since="0.1"
    )
    weight_decay: tuple[float, ...] = _optimisation(
        (0.0,),
        "by what all parameters of a layer are drawn towards 0, times the learning rate: one "
        "number for all, or one for each layer, input side first; in c-ep, in every nudged step",
        allowed=each("numbers from 0 to 1e6", lambda x: 0 <= x <= 1e6),
        since="0.1",
    )
    max_norm: float | None = _optimisation(
        None,
        "shorten gradients longer than this, all parameters taken together; none leaves them",
        allowed=number("a finite number > 0, or none", lambda x: x > 0),
        since="0.1",
    )
    schedule: Literal["constant", "cosine"] = _optimisation(
        "constant", "learning rates as given, or falling like half a cosine", since="0.1"
    )
    schedule_floor: float = _optimisation(
        0.0,
        "to what share of the learning rates the cosine falls",
        allowed=number("a number from 0 to 1", lambda x: 0 <= x <= 1),
        since="0.1",
    )
    schedule_epochs: int | None = _optimisation(
        None,
        "after how many epochs the cosine is at its floor, where it stays; none takes all",
        allowed=whole(1),
        since="0.1",
        shown="all",
    )
    schedule_step: Literal["batch", "epoch"] = _optimisation(
        "batch", "after what the cosine goes on: every mini-batch, or every epoch", since="0.1"
    )
    warm_up: float = _optimisation(
        0.0,
        "epochs in which the learning rates rise from 0 to what they are; the cosine begins after",
        allowed=number("a number from 0 to 1e6", lambda x: 0 <= x <= 1e6),
        since="0.1",
        metavar="EPOCHS",
    )
    shift: int = _optimisation(
        0,
        "move training images at random by up to so many pixels each way",
        allowed=whole(0, 1000),
        since="0.1",
    )
    shift_fill: Literal["zeros", "edge"] = _optimisation(
        "zeros", "what comes in where images move: zeros, or their outermost pixels", since="0.1"
    )
    flip: bool = _optimisation(
        False, "mirror training images left to right, at random", since="0.1"
    )
    batch_size: int = _optimisation(20, "samples in a mini-batch", allowed=whole(1))
    epochs: int = _optimisation(30, "passes over the training data", allowed=whole(1))
    seed: int = _optimisation(
        0, "of the initial weights and of the order of the data", allowed=whole(0, 2**63 - 1)
    )
    state_noise: float = _hardware(
        0.0,
        "σ of normal noise on every state, fresh in every step, such as 0.04",
        allowed=number("a finite number >= 0", lambda x: x >= 0),
    )
    gain_spread: float = _hardware(
        0.0,
        "standard deviation of the units' gains about 1, which stay as they are",
        allowed=number("a finite number >= 0", lambda x: x >= 0),
    )
    offset_spread: float = _hardware(
        0.0,
        "that of their offsets about 0",
        allowed=number("a finite number >= 0", lambda x: x >= 0),
    )
    synapse_spread: float = _hardware(
        0.0,
        "by what share of itself a weight differs on the way down from what it is on the way up",
        allowed=number("a finite number >= 0", lambda x: x >= 0),
    )
    weight_bits: int | None = _hardware(
        None,
        "of a weight, which then has one of 2^bits − 1 values and is rounded at random to the next "
        "one below or above; none does not round",
        allowed=whole(2, 16),
    )
    weight_span: float | None = _hardware(
        None,
        "the largest weight, as a multiple of 1/√n with n inputs of a unit; none sets no bound, "
        "but 4 where there are bits or a nonlinearity",
        allowed=number("a finite number > 0, or none", lambda x: x > 0),
    )
    write_nonlinearity: float = _hardware(
        0.0,
        "ν: a write towards the bound P does (1 − |w|/P)^ν of what was asked, one away from it "
        "more; 0 does what was asked",
        allowed=number("a finite number from 0 to 100", lambda x: 0 <= x <= 100),
    )
    flip_threshold: float | None = _hardware(
        None,
        "make weights binary, ±α: one flips where its filtered gradient says so by more than this, "
        "such as 1e-4; none leaves them real",
        allowed=number("a finite number >= 0, or none", lambda x: x >= 0),
    )
    flip_rate: float = _hardware(
        0.001,
        "κ of that filter, which remembers about 1/κ steps",
        allowed=number("a number above 0, up to 1", lambda x: 0 < x <= 1),
    )
    device: str = _machine("cpu", "cpu, cuda or cuda:N", allowed=device())
    dtype: Literal["float32", "float64"] = _machine("float32", "arithmetic")
    threads: int = _machine(
        1, "CPU threads; at mini-batches of 20 more than one seldom helps", allowed=whole(1, 1024)
    )

    @property
    def tested_on(self) -> str:
        """What the test error is one of: the test samples, or those set aside to choose by."""
        return "validation" if self.validation_share else "test"

    @property
    def can_be_explored(self) -> bool:
        """Whether the page of ``eqprop explore`` knows what its network does in a step."""
        return not (self.state_noise or self.gain_spread or self.offset_spread)

    def check_together(self) -> None:
        least = {"float32": 2.0**-23, "float64": 2.0**-52}[self.dtype]
        self.require(
            "beta",
            abs(self.beta) >= least,
            f"at least {least:.2g} in size, below which rounding in {self.dtype} hides what the "
            "nudge does",
        )
        for name, least in (("kernel", 1), ("stride", 1), ("padding", 0), ("pool", 1)):
            values = getattr(self, name)
            self.require(
                name,
                all(least <= value <= 1000 for value in values)
                and len(values) in {1, max(1, len(self.channels))},
                f"one whole number from {least} to 1000, or one for each convolution "
                f"(channels = {shown(self.channels)})",
            )
        layers = len(self.channels) + len(self.hidden) + 1
        # A readout is no layer that anything could be connected with.
        highest = layers - (self.readout != "none")
        for link in self.links:
            low, high = map(int, link.split("-"))
            self.require(
                "links",
                len(self.channels) < high <= highest and low <= high,
                f"connections up to a dense layer, of {len(self.channels) + 1} to {highest}, from "
                "the same or one before it",
            )
        linked = f", then one per link (links = {shown(self.links)})" if self.links else ""
        convolutions = f"channels = {shown(self.channels)}, " if self.channels else ""
        for name in ("learning_rates", "gains", "weight_decay"):
            self.require(
                name,
                len(getattr(self, name)) in {1, layers + len(self.links)},
                f"one number, or {layers + len(self.links)}, one per layer ({convolutions}hidden = "
                f"{shown(self.hidden)}, and the output){linked}",
            )
        self.require(
            "readout",
            self.readout == "none" or layers > 1,
            "none in a network without hidden layers, of which there would be none to read",
        )
        self.require(
            "class_weights",
            not self.class_weights or any(self.class_weights),
            "a weight above 0 for some class",
        )
        self.require(
            "output_scale",
            self.output_scale is None or self.cost == "cross-entropy",
            "none, unless cost = cross-entropy",
        )
        self.require(
            "nudge",
            self.nudge == "outside" or self.network == "prototypical",
            "outside in a real-time network, where no activation stands around the field",
        )
        self.require(
            "updates",
            self.updates != "newton" or self.network == "real-time",
            "alternating in a prototypical network, whose units go to the minimum of their energy "
            "without Newton's method",
        )
        for name in ("gain_spread", "offset_spread", "homeostasis"):
            self.require(
                name,
                self.updates != "newton" or not getattr(self, name),
                "0 with updates = newton, which has a time step for every unit; alternating goes",
            )
        self.require(
            "momentum",
            not self.momentum or self.optimizer == "sgd",
            f"0, as {self.optimizer} has a momentum of its own; that is for optimizer = sgd",
        )
        self.require(
            "nesterov", not self.nesterov or self.momentum, "false where there is no momentum"
        )
        last = self.schedule_epochs or self.epochs
        self.require("schedule_epochs", last <= self.epochs, f"at most the {self.epochs} epochs")
        self.require("warm_up", self.warm_up <= last, f"at most the {last} epochs of the schedule")
        for name, unset in (
            ("schedule_floor", 0.0),
            ("schedule_epochs", None),
            ("schedule_step", "batch"),
        ):
            self.require(
                name,
                self.schedule == "cosine" or getattr(self, name) == unset,
                f"{'none' if unset is None else unset}, unless schedule = cosine",
            )
        self.require(
            "weight_angle",
            self.weight_angle is None or self.hidden or self.channels,
            "none in a network without hidden layers, in which nothing goes back",
        )
        self.require(
            "feedback",
            self.feedback == 1 or self.weight_angle is None,
            "1 where weights up and down are untied, which learn what they are",
        )
        self.require(
            "synapse_spread",
            not self.synapse_spread or self.weight_angle is None,
            "0 where weights up and down are untied, which differ anyway",
        )
        real = self.weight_bits is None and self.weight_span is None and not self.write_nonlinearity
        self.require(
            "flip_threshold",
            self.flip_threshold is None or real,
            "none with weight_bits, weight_span or write_nonlinearity, as binary weights are not "
            "written but flipped",
        )
