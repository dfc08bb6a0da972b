"""``eqprop explore``: the page computes what the library does, and a person can use it."""

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import eqprop
from eqprop.cli.main import main
from eqprop.errors import Failure

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)

T, K, BETA = 15, 6, 0.3
CLASSES = [str(number) for number in range(10)]


def digits(count: int = 3) -> tuple[Tensor, list[int]]:
    test = eqprop.load_dataset("digits").test
    return test.images[:count], test.labels[:count].tolist()


def page(network: Any, cost: eqprop.Cost | None = None, **others: Any) -> str:
    images, labels = digits()
    settings: dict[str, Any] = {"free_steps": T, "nudged_steps": K, "beta": BETA, **others}
    cost = cost or eqprop.SquaredError()
    return eqprop.explorer_page(network, images, labels, classes=CLASSES, cost=cost, **settings)


def strong(network: Any) -> Any:
    """With weights large enough for states far from where they begin."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    return network


def convolutional() -> list[Any]:
    return eqprop.convolutional((1, 8, 8), (6, 8), 10, kernel=3, padding=1)


NETWORKS: dict[str, Callable[[], tuple[Any, eqprop.Cost]]] = {
    "dense": lambda: (
        eqprop.PrototypicalNetwork(eqprop.dense(64, 32, 16, 10)),
        eqprop.SquaredError(),
    ),
    "in turn, cross-entropy": lambda: (
        eqprop.PrototypicalNetwork(eqprop.dense(64, 32, 16, 10), updates="alternating"),
        eqprop.CrossEntropy(10.0),
    ),
    "inside": lambda: (
        eqprop.PrototypicalNetwork(eqprop.dense(64, 32, 10), "tanh", nudge="inside"),
        eqprop.SquaredError(),
    ),
    "real time": lambda: (
        eqprop.RealTimeNetwork(eqprop.dense(64, 32, 10), epsilon=0.3, clip=(0.0, 1.0)),
        eqprop.SquaredError(),
    ),
    "real time, in turn": lambda: (
        eqprop.RealTimeNetwork(
            eqprop.dense(64, 32, 16, 10), "tanh", epsilon=0.5, updates="alternating"
        ),
        eqprop.SquaredError(),
    ),
    "by Newton's steps": lambda: (
        eqprop.RealTimeNetwork(eqprop.dense(64, 32, 16, 10), clip=(0.0, 1.0), updates="newton"),
        eqprop.SquaredError(),
    ),
    "by Newton's steps, tanh": lambda: (
        eqprop.RealTimeNetwork(eqprop.dense(64, 32, 16, 10), "tanh", updates="newton"),
        eqprop.CrossEntropy(5.0),
    ),
    "untied": lambda: (
        eqprop.PrototypicalNetwork(eqprop.untied(eqprop.dense(64, 32, 16, 10), 60)),
        eqprop.SquaredError(),
    ),
    "scaled, and synapses that differ": lambda: (
        eqprop.PrototypicalNetwork(eqprop.feedback(eqprop.dense(64, 32, 16, 10), 0.7, 0.5)),
        eqprop.SquaredError(),
    ),
    "convolutional": lambda: (
        eqprop.PrototypicalNetwork(convolutional(), "hard-sigmoid", updates="alternating"),
        eqprop.SquaredError(),
    ),
    "convolutional, untied": lambda: (
        eqprop.PrototypicalNetwork(eqprop.untied(convolutional(), 45), "half-hard-sigmoid"),
        eqprop.SquaredError(),
    ),
    "average pooling": lambda: (
        eqprop.PrototypicalNetwork(
            eqprop.convolutional((1, 8, 8), (6,), 10, kernel=3, stride=2, pooling="average")
        ),
        eqprop.SquaredError(),
    ),
    "readout": lambda: (
        eqprop.PrototypicalNetwork(eqprop.dense(64, 32, 16), readout=nn.Linear(16, 10)),
        eqprop.CrossEntropy(),
    ),
    "graph": lambda: (
        eqprop.PrototypicalNetwork(
            [
                ("x", eqprop.Dense(64, 20), "a"),
                ("a", eqprop.Dense(20, 12), "b"),
                ("x", eqprop.Dense(64, 12), "b"),
                ("b", eqprop.Dense(12, 12), "b"),
                ("b", eqprop.Dense(12, 10), "y"),
                ("a", eqprop.Dense(20, 10), "y"),
            ],
            updates="alternating",
        ),
        eqprop.SquaredError(),
    ),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="expected playwright")
    if CHROMIUM is None:
        pytest.skip("expected a Chromium on the path, such as Debian's package chromium")
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=flags)


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a page, of some width and with light or dark colours, and looks for what it says."""
    context, said = [], []

    def open_page(html: str, width: int = 1280, colours: str = "light") -> Any:
        file = tmp_path / "explore.html"
        file.write_text(html, encoding="utf-8")
        context.append(
            browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=colours, offline=True
            )
        )
        tab = context[-1].new_page()
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("console", lambda message: said.append(message.text))
        tab.on("request", lambda request: said.append(request.url))
        tab.goto(file.as_uri())
        tab.wait_for_selector("body[data-ready]")
        said.remove(file.as_uri())
        return tab

    yield open_page
    for each in context:
        each.close()
    # Nothing failed, nothing was said, and nothing was loaded but the page itself.
    assert said == []


def apart(found: Sequence[Sequence[float]], expected: Sequence[Tensor]) -> float:
    layers = zip(found, expected, strict=True)
    return max(float((torch.tensor(f).double() - e.flatten()).abs().max()) for f, e in layers)


def paces(network: Any, x: Tensor, rest: Sequence[Tensor]) -> list[Tensor]:
    """The time step of every unit at rest: ε, or that of Newton's method, one over its curvature.

    Units at a bound of the clip do not move, by whatever it is divided.
    """
    if getattr(network, "updates", "") != "newton":
        return [torch.full_like(layer, network.epsilon) for layer in rest]
    at = [layer.clone().requires_grad_() for layer in rest]
    slopes = torch.autograd.grad(network.energy(x, tuple(at)).sum(), at, create_graph=True)
    bent = [
        torch.autograd.grad(slope.sum(), layer, retain_graph=True)[0]
        for slope, layer in zip(slopes, at, strict=True)
    ]
    return [1 / layer.clamp(min=0.01) for layer in bent]


@pytest.mark.parametrize("updates", ["synchronous", "alternating", "newton"])
def test_the_page_shows_theorem_1_of_a_network_that_is_exact(
    updates: Any, opened: Callable[..., Any]
) -> None:
    torch.manual_seed(0)
    network = eqprop.RealTimeNetwork(eqprop.dense(64, 16, 10), "tanh", epsilon=0.5, updates=updates)
    tab = opened(page(network))
    tab.fill("#T", "150")
    tab.fill("#K", "150")
    tab.fill("#beta", "0.0001")
    tab.evaluate("() => { for (let t = 0; t < 150; t++) explorer.step(); }")
    tab.evaluate("explorer.nudge()")
    tab.evaluate("() => { for (let t = 0; t < 150; t++) explorer.step(); }")
    moved, back = tab.evaluate("[explorer.differences(), explorer.gradients()]")
    for one, other in zip(moved, back, strict=True):
        moves, wanted = torch.tensor(one), torch.tensor(other)
        assert float((moves - wanted).norm() / wanted.norm()) < 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_the_page_settles_where_the_library_does_and_goes_back_as_bptt_does(
    name: str, opened: Callable[..., Any]
) -> None:
    torch.manual_seed(0)
    network, cost = NETWORKS[name]()
    strong(network)
    tab = opened(page(network, cost))
    network.double()
    images, _ = digits(1)
    x, y = images.double(), eqprop.one_hot(torch.tensor([3]), 10, torch.float64)
    with torch.no_grad():
        free = eqprop.relax(network, x, T).state
        nudge = eqprop.Nudge(cost, y, BETA)
        nudged = eqprop.nudged_phase(network, x, K, nudge, free).state
    bptt = eqprop.bptt_process(network, x, y, free_steps=T, nudged_steps=K, cost=cost)

    for _ in range(T):
        tab.click("#step")
    assert apart(tab.evaluate("explorer.state()"), free) < 1e-5
    tab.select_option("#target", "3")
    tab.click("#nudge")
    for _ in range(K):
        tab.click("#step")
    assert apart(tab.evaluate("explorer.state()"), nudged) < 1e-5
    differences = [
        (b - a) / BETA / pace
        for a, b, pace in zip(free, nudged, paces(network, x, free), strict=True)
    ]
    # The page has Newton's time steps from the step that led to rest, those here are the next ones.
    most = 1e-3 if network.updates == "newton" else 1e-4
    assert apart(tab.evaluate("explorer.differences()"), differences) < most
    back = [-layer.sum(0) for layer in bptt.states]
    assert apart(tab.evaluate("explorer.gradients()"), back) < 1e-5
    # The nudge was felt, so that the page can be wrong.
    assert max(float(layer.abs().max()) for layer in back) > 0.1


def test_the_energy_falls_where_layers_move_in_turn_and_there_is_none_without_ties(
    opened: Callable[..., Any],
) -> None:
    torch.manual_seed(0)
    network = strong(NETWORKS["in turn, cross-entropy"]()[0])
    energies = opened(page(network)).evaluate(
        "() => { for (let t = 0; t < 15; t++) explorer.step(); return explorer.energies(); }"
    )
    assert all(after <= before + 1e-12 for before, after in pairwise(energies))
    tab = opened(page(NETWORKS["untied"]()[0]))
    assert "there is no energy" in tab.inner_text("#no-energy")


def test_the_energy_of_a_real_time_network_is_the_one_of_the_library(
    opened: Callable[..., Any],
) -> None:
    torch.manual_seed(0)
    network = strong(NETWORKS["real time"]()[0])
    tab = opened(page(network))
    tab.evaluate("() => { for (let t = 0; t < 15; t++) explorer.step(); }")
    x = digits(1)[0].double()
    network.double()
    with torch.no_grad():
        expected = float(network.energy(x, eqprop.relax(network, x, T).state)[0])
    assert tab.evaluate("explorer.energies()[14]") == pytest.approx(expected, abs=1e-6)


def test_a_two_cycle_is_told_and_ends_where_layers_move_in_turn(
    opened: Callable[..., Any],
) -> None:
    """Of two layers that inhibit each other, each answers to where the other one was."""
    lower, upper = eqprop.dense(64, 10, 10)
    network = eqprop.PrototypicalNetwork([lower, upper], "hard-sigmoid")
    for connection, weight in ((lower, torch.zeros(10, 64)), (upper, -4 * torch.eye(10))):
        connection.load_state_dict({"weight": weight, "bias": torch.full((10,), 0.6)})
    tab = opened(page(network))
    for _ in range(8):
        tab.click("#step")
    assert "goes to and fro between two states" in tab.inner_text("#status")
    tab.select_option("#updates", "alternating")
    for _ in range(8):
        tab.click("#step")
    assert "at rest" in tab.inner_text("#status")


def test_the_keyboard_does_what_the_buttons_do(opened: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    tab = opened(page(NETWORKS["dense"]()[0]))
    tab.keyboard.press("ArrowRight")
    assert "free phase, step 1 of 15" in tab.inner_text("#status")
    tab.keyboard.press("Space")
    tab.wait_for_function("document.getElementById('status').textContent.includes('step 15 of 15')")
    tab.keyboard.press("n")
    tab.keyboard.press("ArrowRight")
    assert "nudged phase, step 1 of 6" in tab.inner_text("#status")
    tab.keyboard.press("r")
    assert "free phase, step 0 of 15" in tab.inner_text("#status")
    # Everything can be reached, and one sees where one is.
    reached = set()
    for _ in range(20):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.id"))
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert tab.evaluate("document.activeElement === document.body") or (
            tab.evaluate(outline) != "none"
        )
    controls = {"clear", "sample", "play", "step", "restart", "speed", "target", "nudge"}
    assert controls | {"T", "K", "beta", "updates"} <= reached


def test_another_nudge_begins_anew_from_where_the_network_rested(
    opened: Callable[..., Any],
) -> None:
    torch.manual_seed(0)
    network = strong(NETWORKS["dense"]()[0])
    tab = opened(page(network))
    tab.evaluate("() => { for (let t = 0; t < 15; t++) explorer.step(); }")
    rest = tab.evaluate("explorer.state()")
    tab.click("#nudge")
    tab.click("#step")
    tab.fill("#beta", "-0.3")
    tab.press("#beta", "Enter")
    assert "nudged phase, step 0 of 6" in tab.inner_text("#status")
    assert tab.evaluate("explorer.state()") == rest
    assert len(tab.evaluate("explorer.moved()")) == 15
    tab.click("#step")
    # Away from the target, by as much as towards it: the first step is linear in β.
    moved = tab.evaluate("explorer.differences()[2]")
    said, target = torch.tensor(rest[2]), torch.zeros(10)
    target[int(tab.input_value("#target"))] = 1
    free = torch.tensor(
        tab.evaluate(
            "() => { explorer.restart(); for (let t = 0; t < 16; t++)"
            " explorer.step(); return explorer.state()[2]; }"
        )
    )
    drift = (free - said) / -0.3
    torch.testing.assert_close(torch.tensor(moved) - drift, target - said, rtol=0, atol=1e-6)


def test_one_can_draw_with_the_mouse_and_the_network_looks_at_it(
    opened: Callable[..., Any],
) -> None:
    torch.manual_seed(0)
    tab = opened(page(NETWORKS["dense"]()[0]))
    tab.click("#clear")
    assert not any(tab.evaluate("Array.from(explorer.input())"))
    box = tab.locator("#drawing").bounding_box()
    middle = box["x"] + box["width"] / 2
    tab.mouse.move(middle, box["y"] + 20)
    tab.mouse.down()
    tab.mouse.move(middle, box["y"] + box["height"] - 20, steps=12)
    tab.mouse.up()
    tab.wait_for_function("document.getElementById('status').textContent.includes('step 15 of 15')")
    drawn = np.array(tab.evaluate("Array.from(explorer.input())")).reshape(8, 8)
    assert drawn[:, 3:5].mean() > 0.5 > drawn[:, :2].max() + drawn[:, 6:].max()
    assert drawn.max() <= 1


def test_what_is_no_grey_image_is_shown_and_cannot_be_drawn(opened: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    network = eqprop.PrototypicalNetwork(eqprop.dense(3, 8, 10))
    html = eqprop.explorer_page(
        network,
        torch.randn(2, 3),
        [0, 1],
        classes=CLASSES,
        cost=eqprop.SquaredError(),
        free_steps=5,
        nudged_steps=3,
        beta=0.5,
    )
    tab = opened(html)
    assert tab.is_disabled("#clear")
    tab.click("#step")
    assert "step 1 of 5" in tab.inner_text("#status")


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_whatever_is_read_stands_out_from_what_is_behind_it(
    colours: str, opened: Callable[..., Any]
) -> None:
    """At least 4.5 to 1, as WCAG 2 (AA) asks for text."""
    tab = opened(page(NETWORKS["dense"]()[0]), colours=colours)
    values = tab.evaluate(
        "() => Object.fromEntries(['page', 'panel', 'text', 'quiet', 'accent', 'on-accent', 'free',"
        " 'nudged'].map((name) => [name, getComputedStyle(document.documentElement)"
        ".getPropertyValue('--' + name).trim()]))"
    )

    def light(name: str) -> float:
        levels = [int(values[name][i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    texts, grounds = ("text", "quiet", "free", "nudged"), ("page", "panel")
    pairs = [(text, behind) for text in texts for behind in grounds]
    for one, other in [*pairs, ("on-accent", "accent")]:
        lighter, darker = sorted((light(one), light(other)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (one, other)


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_the_page_fits_a_screen_of_any_width(width: int, opened: Callable[..., Any]) -> None:
    tab = opened(page(NETWORKS["convolutional"]()[0]), width=width)
    tab.click("#step")
    tab.click("#nudge")
    assert tab.evaluate("document.scrollingElement.scrollWidth") <= width
    sections = "[...document.querySelectorAll('section')]"
    over = f"{sections}.some((s) => [...s.querySelectorAll('*')].some((e) => "
    over += "e.getBoundingClientRect().right > s.getBoundingClientRect().right + 1))"
    assert not tab.evaluate(over)


def test_the_page_of_two_hidden_layers_of_512_can_be_sent_by_mail() -> None:
    network = eqprop.PrototypicalNetwork(eqprop.dense(784, 512, 512, 10))
    html = eqprop.explorer_page(
        network,
        torch.rand(100, 1, 28, 28),
        [0] * 100,
        classes=CLASSES,
        cost=eqprop.SquaredError(),
        free_steps=30,
        nudged_steps=10,
        beta=0.2,
    )
    assert len(html.encode()) < 5_000_000


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: eqprop.PrototypicalNetwork(eqprop.dense(64, 10), torch.sigmoid),
            "expected one of the activations scaled-sigmoid, ",
        ),
        (
            lambda: eqprop.PrototypicalNetwork(
                eqprop.dense(64, 10), eqprop.Activation("tanh", torch.sin, lambda s, r: s.cos())
            ),
            "expected one of the activations .*, got tanh",
        ),
        (
            lambda: eqprop.PrototypicalNetwork([eqprop.Identity((64,)), eqprop.Dense(64, 10)]),
            "expected dense and convolutional connections",
        ),
        (
            lambda: eqprop.PrototypicalNetwork(
                eqprop.dense(64, 16), readout=nn.Sequential(nn.Linear(16, 10))
            ),
            "expected a linear readout",
        ),
        (eqprop.ToyModel, "expected a prototypical or a real-time network"),
        (
            lambda: eqprop.noisy(eqprop.PrototypicalNetwork(eqprop.dense(64, 10)), 0.1),
            "expected a network without noise and mismatch of its units, .*, got Noisy",
        ),
        (
            lambda: eqprop.mismatched(eqprop.PrototypicalNetwork(eqprop.dense(64, 10)), 0.1),
            "expected a network without noise and mismatch of its units, .*, got Mismatched",
        ),
    ],
    ids=["rho", "another rho of its name", "connection", "readout", "model", "noise", "gains"],
)
def test_a_network_that_the_page_cannot_compute_is_refused(make: Any, said: str) -> None:
    with pytest.raises(Failure, match=said):
        page(make())


def test_a_cost_that_the_page_does_not_know_is_refused() -> None:
    weighted = eqprop.Weighted(eqprop.SquaredError(), [1.0] * 10)
    with pytest.raises(Failure, match="expected the squared error or cross-entropy"):
        page(NETWORKS["dense"]()[0], weighted)


def test_what_a_layer_is_called_is_shown_as_text(opened: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    name = "<img src=x onerror=document.title='run'>"
    edges = [("x", eqprop.Dense(64, 12), name), (name, eqprop.Dense(12, 10), "y")]
    tab = opened(page(eqprop.PrototypicalNetwork(edges)))
    assert name in tab.inner_text("#layers")
    assert tab.title() != "run"


def test_what_a_class_is_called_cannot_end_the_script() -> None:
    images, labels = digits()
    html = eqprop.explorer_page(
        NETWORKS["dense"]()[0],
        images,
        labels,
        classes=["</script><b>", *CLASSES[1:]],
        cost=eqprop.SquaredError(),
        free_steps=T,
        nudged_steps=K,
        beta=BETA,
        title="a < b",
    )
    assert "</script><b>" not in html
    assert "<title>a &lt; b</title>" in html


def command(*words: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(words) == 0
    return out.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mine"
    command("train", "--epochs", "1", "--out", str(folder))
    return folder


def test_the_command_writes_one_file_beside_the_run(
    trained: Path, opened: Callable[..., Any]
) -> None:
    said = command("explore", str(trained), "--free-steps", "12")
    file = trained / "explore.html"
    assert said.startswith(f"{file} (0.")
    tab = opened(file.read_text(encoding="utf-8"))
    assert "after 1 epoch, test error" in tab.inner_text("header")
    tab.click("#step")
    assert "step 1 of 12" in tab.inner_text("#status")
    # The image is one of the test, and its class is what it would be nudged towards.
    run = eqprop.open_run(trained)
    assert tab.input_value("#target") == str(int(run.data.test.labels[0]))


def test_the_command_says_where_the_file_is_as_json(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "sub" / "page.html"
    found = json.loads(command("explore", str(trained), "--out", str(file), "--json", "--no-open"))
    assert found == {"file": str(file), "bytes": file.stat().st_size}


def test_a_folder_in_the_place_of_the_file_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explore", str(trained), "--out", str(tmp_path)]) == 1
    assert "expected a file to write, found a folder" in capsys.readouterr().err


def test_a_regression_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "numbers.npz"
    x = np.random.default_rng(0).random((40, 3), "f4")
    np.savez(file, x_train=x, y_train=x.sum(1))
    folder = tmp_path / "run"
    words = ["train", "--dataset", f"regression:{file}", "--readout", "linear", "--epochs", "1"]
    command(*words, "--hidden", "4", "--learning-rates", "0.01", "0.01", "--out", str(folder))
    assert main(["explore", str(folder)]) == 2
    assert "expected a network that tells classes apart" in capsys.readouterr().err
