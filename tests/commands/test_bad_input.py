"""Whatever is typed or lies on the disk: one line and a status, or a result; never a traceback.

What takes long once all is accepted is replaced: it is what comes before that is tried here.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eqprop import figures, runs
from eqprop.cli import show, theorem
from eqprop.cli.main import COMMANDS, _parser, main
from eqprop.errors import Failure
from eqprop.runs import learner
from eqprop.settings import Experiment
from eqprop.training.checkpoint import LAST
from eqprop.training.loop import Metrics

DONE = "the rest would take long"
NAMES = [command.__name__.rpartition(".")[2] for command in COMMANDS]


def _done(*_: Any, **__: Any) -> NoReturn:
    raise Failure(DONE)


def _one_epoch(*_: Any, done: int, **__: Any) -> Iterator[Metrics]:
    yield Metrics(done + 1, 90.0, 0.5, 90.0, 0.5, 0.1)


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run of two epochs in it; whatever would take long is left out."""
    folder = tmp_path_factory.mktemp("bad")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("EQPROP_DATA", str(folder / "data"))
        quick = "--epochs 2 --hidden 4 --free-steps 2 --nudged-steps 1 --threads 1"
        assert main(["train", *quick.split(), "--out", "good"]) == 0
        patch.setattr(learner, "train", _one_epoch)
        patch.setattr(runs, "time_batch", _done)
        patch.setattr(runs, "look", _done)
        patch.setattr(show, "_settle", _done)
        patch.setattr(theorem, "_compute", _done)
        patch.setattr(theorem, "_settle", _done)
        patch.setattr(figures.Reproduction, "make", _done)
        patch.setattr("eqprop.data.archives._download", _done)
        yield folder


def refused_or_done(capsys: pytest.CaptureFixture[str], words: Sequence[str]) -> int:
    """The status of a command, which says at most one line of what was wrong."""
    capsys.readouterr()
    try:
        status = main(list(words))
    except SystemExit as end:
        assert end.code == 0, "only --help and --version end that way"
        status = 0
    said = capsys.readouterr().err
    wrong = [line for line in said.splitlines() if line.startswith("eqprop: ")]
    assert status in {0, 1, 2}
    assert len(wrong) == (status != 0), said
    assert "Traceback" not in said
    if wrong:
        assert said.splitlines()[-1] == wrong[0]
        assert len(wrong[0]) < 1000, "a line, no essay"
    return status


# Words

WORDS = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "0.5",
    "-0.5",
    "1e-3",
    "1e400",
    "-1e400",
    "nan",
    "inf",
    "1_000",
    "0x10",
    "1e3",
    "½",
    "٣",
    "none",
    "None",
    "true",
    "yes",
    "no",
    "cpu",
    "cuda",
    "cuda:9",
    "meta",
    "tanh",
    "relu",
    "sgd",
    "adam",
    "symmetric",
    "toy",
    "digits",
    "mnist",
    "good",
    "beta=1",
    "beta=nan",
    "beta=",
    "beta=0.1,0.2",
    "free-steps=1",
    "x",
    "..",
    "/",
    "-",
    "--",
    "--json",
    "--help",
    "--out=good",
    "",
    " ",
    "a b",
    "é\udce9",
    "💥",
    "\n",
    "/dev/null",
]
LONG = "9" * 400
VALUES = st.sampled_from([*WORDS, LONG]) | st.text(
    st.characters(exclude_characters="\0/"), max_size=6
)


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """A command with options of its own, or nearly, and any words."""
    command = draw(st.sampled_from(NAMES))
    words = [command]
    if command == "reproduce" and draw(st.integers(0, 3)):
        words.append("fig-1c")
    options = [o for o in _options(words) if not o.startswith("--no-")]
    for _ in range(draw(st.integers(0, 4))):
        option = draw(st.sampled_from(options) | st.just("--nonsense"))
        words += [option, *draw(st.lists(VALUES, max_size=3))]
    where = draw(st.integers(1, len(words)))
    target = {"train": "digits", "evaluate": "good", "show": "good", "bench": "digits"}
    words.insert(where, draw(st.just(target.get(command, "toy")) | VALUES))
    if command == "train" and "--epochs" not in words:
        words += ["--epochs", "2"]
    return words


def _options(words: list[str]) -> list[str]:
    if words[0] == "reproduce":
        return ["--dataset", "--epochs", "--seeds", "--angles", "--workers", "--out", "--json"]
    (commands,) = (a.choices for a in _parser()._actions if isinstance(a.choices, dict))
    return commands[words[0]].get_default("known")


few = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=100,
)
many = settings(few, max_examples=400)
more = pytest.mark.exhaustive


def any_words(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    refused_or_done(capsys, words)


test_any_words_are_refused_in_a_line_or_understood = few(given(words=lines())(any_words))
test_many_more_words_are_too = more(many(given(words=lines())(any_words)))


# Files

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)
SETTINGS = st.sampled_from([*Experiment().to_json(), "preset", "data_dir", "nonsense", "Beta"])
TOML = st.dictionaries(
    SETTINGS, JSON.filter(lambda value: "null" not in json.dumps(value)), max_size=3
).map(lambda table: "\n".join(f"{name} = {json.dumps(of)}" for name, of in table.items()))


def any_config(capsys: pytest.CaptureFixture[str], contents: str | bytes) -> None:
    raw = contents if isinstance(contents, bytes) else contents.encode(errors="surrogatepass")
    Path("my.toml").write_bytes(raw)
    refused_or_done(capsys, ["train", "--config", "my.toml", "--epochs", "1", "--hidden", "4"])


CONFIGS = st.text() | st.binary() | TOML
test_any_config_is_refused_in_a_line_or_understood = few(given(contents=CONFIGS)(any_config))
test_many_more_configs_are_too = more(many(given(contents=CONFIGS)(any_config)))


def _changed(config: Any, path: list[Any], value: Any) -> Any:
    """The same with another value at some place in it."""
    if not path or not isinstance(config, dict) or not config:
        return value
    name = sorted(config)[path[0] % len(config)]
    return {**config, name: _changed(config[name], path[1:], value)}


@st.composite
def damage(draw: st.DrawFn) -> tuple[str, Any]:
    """What happens to a file of a run."""
    kind = draw(st.sampled_from(["config.json", "metrics.jsonl", str(LAST)]))
    if kind == "config.json" and draw(st.booleans()):
        return kind, (draw(st.lists(st.integers(0, 40), max_size=2)), draw(JSON))
    return kind, draw(st.tuples(st.integers(0, 10**6), st.binary(max_size=9)) | st.none())


def any_damage(capsys: pytest.CaptureFixture[str], of: tuple[str, Any]) -> None:
    name, change = of
    shutil.rmtree("bad", ignore_errors=True)
    shutil.copytree("good", "bad")
    path = Path("bad") / name
    match change:
        case None:
            path.unlink()
        case (list() as where, value):
            path.write_text(json.dumps(_changed(json.loads(path.read_text()), where, value)))
        case (position, found):
            whole = path.read_bytes()
            start = position % (len(whole) + 1)
            path.write_bytes(whole[:start] + found + whole[start + len(found) :])
    for command in ("evaluate bad", "show bad", "theorem bad", "train --resume bad --epochs 3"):
        refused_or_done(capsys, command.split())


test_a_run_that_is_damaged_anyhow_is_refused_in_a_line = few(given(of=damage())(any_damage))
test_a_run_that_is_damaged_in_many_more_ways_is_too = more(many(given(of=damage())(any_damage)))
