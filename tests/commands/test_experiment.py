"""Settings are typed and validated, wherever they come from."""

import json
import pickle
from dataclasses import Field, dataclass, fields
from typing import Any, Literal, final

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eqprop.cli.bench_settings import BenchSettings
from eqprop.cli.options import Parser, add_options
from eqprop.cli.options import given as given_options
from eqprop.cli.show import ShowSettings
from eqprop.errors import ConfigurationError
from eqprop.figures import Work
from eqprop.registries import COSTS, FIGURES
from eqprop.runs import build_network, build_optimizer
from eqprop.settings.experiment import Experiment
from eqprop.settings.fields import Settings, kind_of, setting
from eqprop.settings.presets import PRESETS, preset
from eqprop.settings.theorem import TheoremSettings


@pytest.mark.parametrize(
    ("settings", "name", "value", "allowed"),
    [
        ({"free_steps": 0}, "free_steps", "0", "at least 1"),
        ({"nudged_steps": -3}, "nudged_steps", "-3", "at least 1"),
        ({"beta": 0.0}, "beta", "0.0", "other than 0"),
        ({"beta": float("inf")}, "beta", "inf", "finite"),
        ({"beta": "much"}, "beta", "much", "a number"),
        ({"free_steps": 2.5}, "free_steps", "2.5", "whole number"),
        ({"free_steps": True}, "free_steps", "True", "whole number"),
        ({"clip": 1}, "clip", "1", "true or false"),
        ({"epsilon": 0.0}, "epsilon", "0.0", "> 0"),
        ({"tolerance": -1e-3}, "tolerance", "-0.001", ">= 0"),
        ({"hidden": [12, 0]}, "hidden", "12 0", "from 1 to"),
        ({"hidden": 12}, "hidden", "12", "whole numbers"),
        ({"channels": [8, 0]}, "channels", "8 0", "from 1 to"),
        ({"channels": [8]}, "learning_rates", "0.1 0.05", "3, one per layer (channels"),
        ({"kernel": [3, 3]}, "kernel", "3 3", "one for each convolution"),
        ({"kernel": []}, "kernel", "(nothing)", "one whole number"),
        ({"stride": [0]}, "stride", "0", "from 1 to"),
        ({"padding": [-1]}, "padding", "-1", "from 0 to"),
        ({"pool": [0]}, "pool", "0", "from 1 to"),
        ({"pooling": "min"}, "pooling", "min", "one of max, average"),
        ({"updates": "random"}, "updates", "random", "one of synchronous, alternating, newton"),
        ({"updates": "newton"}, "updates", "newton", "alternating in a prototypical network"),
        ({"schedule": "step"}, "schedule", "step", "one of constant, cosine"),
        ({"shift": -1}, "shift", "-1", "from 0"),
        ({"weight_angle": 181}, "weight_angle", "181.0", "from 0 to 180, or none"),
        ({"weight_angle": float("nan")}, "weight_angle", "nan", "from 0 to 180"),
        (
            {"weight_angle": 45, "hidden": [], "learning_rates": [0.1]},
            "weight_angle",
            "45.0",
            "none in a network without hidden layers",
        ),
        ({"cost": "hinge"}, "cost", "hinge", "one of squared-error"),
        (
            {"learning_rates": [0.1] * 3},
            "learning_rates",
            "0.1 0.1 0.1",
            "one number, or 2, one per",
        ),
        ({"learning_rates": []}, "learning_rates", "(nothing)", "one number, or 2, one per layer"),
        ({"hidden": [8, 8]}, "learning_rates", "0.1 0.05", "one number, or 3, one per layer"),
        ({"learning_rates": [0.1, -1.0]}, "learning_rates", "0.1 -1.0", "from 0"),
        ({"learning_rates": [0.1, float("nan")]}, "learning_rates", "0.1 nan", "from 0"),
        ({"learning_rates": []}, "learning_rates", "(nothing)", "one per layer"),
        ({"epochs": 0}, "epochs", "0", "at least 1"),
        ({"batch_size": 0}, "batch_size", "0", "at least 1"),
        ({"threads": 0}, "threads", "0", "from 1 to 1024"),
        ({"seed": -1}, "seed", "-1", "from 0"),
        (
            {"estimator": "backprop"},
            "estimator",
            "backprop",
            "one of ep, c-ep, asym-ep",
        ),
        ({"device": "tpu"}, "device", "tpu", "cuda:N"),
        ({"device": "cuda:"}, "device", "cuda:", "cuda:N"),
        ({"bta": 1}, "bta", "1", "did you mean beta?"),
    ],
)
def test_a_bad_setting_is_named_with_its_value_and_what_is_allowed(
    settings: dict, name: str, value: str, allowed: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Experiment().override(settings)
    message = str(caught.value)
    assert message.startswith(f"{name} = {value}: expected ")
    assert allowed in message
    assert "\n" not in message


def test_settings_may_be_given_as_numpy_and_lists_have_them() -> None:
    found = Experiment(
        hidden=[512, np.int64(256)],  # pyright: ignore[reportArgumentType]
        kernel=np.array([3]),  # pyright: ignore[reportArgumentType]
        learning_rates=torch.tensor([1, 0.5, 0.25]),  # pyright: ignore[reportArgumentType]
        beta=1,
        epsilon=np.float32(0.5),  # pyright: ignore[reportArgumentType]
        clip=np.bool_(False),  # pyright: ignore[reportArgumentType]
        tolerance=None,
        weight_angle=np.int8(45),  # pyright: ignore[reportArgumentType]
        epochs=np.uint8(3),  # pyright: ignore[reportArgumentType]
        padding=range(1),  # pyright: ignore[reportArgumentType]
    )
    same = Experiment(
        hidden=(512, 256),
        kernel=(3,),
        learning_rates=(1.0, 0.5, 0.25),
        beta=1.0,
        epsilon=0.5,
        clip=False,
        weight_angle=45.0,
        epochs=3,
        padding=(0,),
    )
    assert repr(found) == repr(same), "and all are of Python's own types"
    assert Experiment.stored(found.to_json()) == same


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 512}, "hidden = 512: expected a list of whole numbers, got int"),
        ({"hidden": "512"}, "hidden = 512: expected a list of whole numbers, got the text '512'"),
        ({"hidden": ["512"]}, "hidden = 512: expected whole numbers, got the text '512'"),
        ({"hidden": [[512]]}, "hidden = [512]: expected whole numbers, got list"),
        ({"hidden": {512}}, "hidden = {512}: expected a list of whole numbers, got set"),
        ({"hidden": [512.0]}, "hidden = 512.0: expected whole numbers, got float"),
        ({"epochs": 3.0}, "epochs = 3.0: expected a whole number, got float"),
        ({"epochs": np.array([3])}, "epochs = 3: expected a whole number, got list"),
        ({"epochs": True}, "epochs = True: expected a whole number, got bool"),
        ({"beta": "1"}, "beta = 1: expected a number, got the text '1'"),
        ({"beta": None}, "beta = None: expected a number, got none"),
        ({"tolerance": "x"}, "tolerance = x: expected a number, or none, got the text 'x'"),
        ({"updates": 1}, "updates = 1: expected one of synchronous, alternating, newton, got int"),
        ({"updates": "x"}, "updates = x: expected one of synchronous, alternating, newton"),
    ],
    ids=str,
)
def test_a_setting_of_another_type_is_refused_with_its_type(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError) as made:
        Experiment(**settings)
    with pytest.raises(ConfigurationError) as changed:
        Experiment().override(settings)
    assert str(made.value) == str(changed.value) == message


@given(
    st.sampled_from([setting.name for setting in fields(Experiment)]),
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.integers() | st.floats() | st.text(max_size=3), max_size=3)
    | st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)
def test_any_value_is_either_accepted_or_refused_by_name(name: str, value: object) -> None:
    try:
        changed = Experiment().override({name: value})
    except ConfigurationError as error:
        assert error.name in (name, "learning_rates")
    else:
        assert changed.override({}) == changed


@pytest.mark.parametrize("name", PRESETS)
def test_an_experiment_survives_being_stored_as_json(name: str) -> None:
    experiment = preset(name)
    stored = json.loads(json.dumps(experiment.to_json()))
    assert Experiment().override(stored) == experiment


def test_hidden_layers_and_learning_rates_change_together() -> None:
    changed = Experiment().override({"hidden": [8, 8], "learning_rates": [1, 0.5, 0.1]})
    assert changed.learning_rates == (1.0, 0.5, 0.1)


def test_words_of_the_command_line_mean_what_they_say() -> None:
    assert Experiment.read("beta", "-1e-3") == -1e-3
    assert Experiment.read("hidden", ["8", "9"]) == (8, 9)
    assert Experiment.read("tolerance", "none") is None
    assert Experiment.read("tolerance", "1e-6") == 1e-6
    assert Experiment.read("estimator", "bptt") == "bptt"
    for name, words in (
        ("epochs", "five"),
        ("epochs", "1_000"),
        ("epochs", "٣"),
        ("beta", "0.1_5"),
        ("hidden", ["8", "x"]),
        ("beta", "none"),
    ):
        with pytest.raises(ConfigurationError, match=f"{name} = "):
            Experiment.read(name, words)


@final
@dataclass(frozen=True, kw_only=True)
class Every(Settings):
    """A setting of every kind there can be."""

    switch: bool = setting(False, "")
    whole: int = setting(0, "")
    number: float = setting(0.0, "")
    name: str = setting("", "")
    choice: Literal["one", "two"] = setting("one", "")
    registered: str = setting("squared-error", "", choices=COSTS)
    perhaps: int | None = setting(None, "")
    perhaps_choice: Literal["one", "two"] | None = setting(None, "")
    wholes: tuple[int, ...] = setting((), "")
    numbers: tuple[float, ...] = setting((), "")
    choices: tuple[Literal["one", "two"], ...] = setting((), "")
    several_registered: tuple[str, ...] = setting((), "", choices=COSTS)


SETTINGS = [Every, Experiment, TheoremSettings, ShowSettings, BenchSettings, Work]
SETTINGS += [FIGURES.load(name).settings for name in FIGURES]


def values(of: Field[Any]) -> st.SearchStrategy[Any]:
    """Whatever is of the setting's kind, also where it is not allowed."""
    kind = kind_of(of)
    of_item: dict[type, st.SearchStrategy[Any]] = {
        bool: st.booleans(),
        int: st.integers(),
        float: st.floats(allow_nan=False, allow_infinity=False),
        str: st.text(st.characters(exclude_categories=["Cs"])),
    }
    if kind.several:
        # An option takes the words that follow it, up to what looks like another one.
        of_item[str] = of_item[str].filter(lambda word: not word.startswith("-"))
    found = st.sampled_from(kind.names) if kind.names else of_item[kind.item]
    found = st.lists(found).map(tuple) if kind.several else found
    return st.none() | found if kind.optional else found


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda of: of.__name__)
@given(st.data())
def test_the_words_that_mean_a_value_are_read_as_this_value(
    settings: type[Settings], data: st.DataObject
) -> None:
    parser = Parser()
    add_options(parser, settings)
    for of in fields(settings):
        value = data.draw(values(of), label=of.name)
        read = given_options(parser.parse_args(settings.words(of.name, value)), settings)
        assert read == {of.name: value}
        assert type(read[of.name]) is type(value)


def test_the_words_of_several_settings_mean_all_of_them() -> None:
    changed = Experiment().override(
        {"hidden": [8, 8], "learning_rates": [1, 0.5, 1e-5], "clip": 0 > 1}
    )
    words = [w for name, value in vars(changed).items() for w in Experiment.words(name, value)]
    parser = Parser()
    parser.add_argument("preset")
    add_options(parser, Experiment)
    options = parser.parse_args(["p-1h", *words])
    assert Experiment(**given_options(options, Experiment)) == changed
    assert options.preset == "p-1h"


def test_a_stored_experiment_may_lack_what_is_younger_than_it() -> None:
    experiment = Experiment(hidden=(8,), beta=0.3)
    stored = experiment.to_json()
    for of in fields(Experiment):
        less = {name: value for name, value in stored.items() if name != of.name}
        if of.metadata["since"] is None:
            with pytest.raises(KeyError, match=of.name):
                Experiment.stored(less)
        else:
            assert Experiment.stored(less) == experiment
    assert "cost" not in {of.name for of in fields(Experiment) if of.metadata["since"] is None}


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"preset = nine: expected one of digits, .*p-3h"):
        preset("nine")
    # The nearest one is of more use than all of them.
    with pytest.raises(ConfigurationError, match=r"^.{,80}\(did you mean p-1h\?\)$"):
        preset("p1h")
    with pytest.raises(ConfigurationError, match="preset = p-1h p-2h: expected one of"):
        preset(["p-1h", "p-2h"])  # pyright: ignore[reportArgumentType]


# The published table: learning rates there are listed output side first.
PUBLISHED = """
eb-1h real-time    512         100 12 0.5 0.05 0.1            30
eb-2h real-time    512-512     400 40 0.5 0.01 0.1 0.4        50
p-1h  prototypical 512         30  10 0.1 0.04 0.08           30
p-2h  prototypical 512-512     100 20 0.5 0.005 0.05 0.2      50
p-3h  prototypical 512-512-512 180 20 0.5 0.002 0.01 0.05 0.2 100
"""


def test_the_preset_with_convolutions_has_the_published_settings() -> None:
    assert preset("p-conv") == Experiment(
        dataset="mnist",
        network="prototypical",
        channels=(32, 64),
        kernel=(5,),
        stride=(1,),
        padding=(0,),
        pool=(2,),
        pooling="max",
        hidden=(),
        activation="hard-sigmoid",
        updates="synchronous",
        estimator="ep",
        free_steps=200,
        nudged_steps=10,
        beta=0.4,
        nudging="one-sided",
        optimizer="sgd",
        learning_rates=(0.15, 0.035, 0.015),
        schedule="constant",
        shift=0,
        batch_size=20,
        epochs=40,
    )


CONTINUAL = """
c-ep-1h 512     none 40  15 one-sided   0.2  0.0028 0.0056        100
c-ep-2h 512-512 none 100 20 one-sided   0.5  0.00018 0.0018 0.01  150
c-vf-1h 512     0    40  15 random-sign 0.2  0.0038 0.0076        100
c-vf-2h 512-512 0    100 20 random-sign 0.35 0.00016 0.0016 0.009 150
"""
"""Learning rates from the output to the input, as published."""


@pytest.mark.parametrize("row", CONTINUAL.strip().splitlines(), ids=lambda row: row.split()[0])
def test_a_preset_of_continual_updates_has_the_published_settings(row: str) -> None:
    name, hidden, angle, t, k, nudging, beta, *rates, epochs = row.split()
    assert preset(name) == Experiment(
        dataset="mnist",
        network="prototypical",
        hidden=tuple(int(size) for size in hidden.split("-")),
        activation="scaled-sigmoid",
        updates="synchronous",
        weight_angle=None if angle == "none" else float(angle),
        estimator="c-ep",
        free_steps=int(t),
        nudged_steps=int(k),
        beta=float(beta),
        nudging=nudging,  # pyright: ignore[reportArgumentType]
        tolerance=None,
        optimizer="sgd",
        learning_rates=tuple(float(rate) for rate in reversed(rates)),
        schedule="constant",
        shift=0,
        batch_size=20,
        epochs=int(epochs),
    )


@pytest.mark.parametrize("row", PUBLISHED.strip().splitlines(), ids=lambda row: row.split()[0])
def test_a_preset_has_the_published_settings(row: str) -> None:
    name, network, hidden, t, k, beta, *rates, epochs = row.split()
    assert preset(name) == Experiment(
        dataset="mnist",
        network=network,  # pyright: ignore[reportArgumentType]
        hidden=tuple(int(size) for size in hidden.split("-")),
        activation="scaled-sigmoid",
        epsilon=0.2,
        clip=True,
        estimator="ep",
        free_steps=int(t),
        nudged_steps=int(k),
        beta=float(beta),
        nudging="one-sided",
        tolerance=None,
        optimizer="sgd",
        learning_rates=tuple(float(rate) for rate in reversed(rates)),
        batch_size=20,
        epochs=int(epochs),
    )


def test_a_refusal_survives_the_way_from_one_process_to_another() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Experiment(beta=0.0)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.name == "beta"


def test_one_learning_rate_is_that_of_every_layer() -> None:
    alone = Experiment().override({"hidden": [8, 8], "learning_rates": [0.1]})
    each = alone.override({"learning_rates": [0.1, 0.1, 0.1]})
    rates = []
    for experiment in (alone, each):
        network = build_network(experiment, (64,), 10)
        rates.append([group["lr"] for group in build_optimizer(experiment, network).param_groups])
    assert rates == [[0.1] * 3] * 2


def test_several_numbers_with_commas_between_them_are_told_of_blanks() -> None:
    with pytest.raises(ConfigurationError, match="with blanks between them instead of commas"):
        Experiment.read("hidden", ["60,30"])
