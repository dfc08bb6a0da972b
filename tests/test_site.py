"""What the site draws from the code leaves nothing out."""

import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

import eqprop
from eqprop.registries import FIGURES
from eqprop.settings import PRESETS, Experiment

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def pages_at_hand(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pytest.importorskip("sphinx", reason="expected the extra [docs]")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    yield
    for name in ("api_pages", "command_pages", "results_page", "settings_pages"):
        sys.modules.pop(name, None)


def test_every_room_of_the_reference_is_in_its_list() -> None:
    import api_pages

    listed = (ROOT / "docs" / "reference" / "api.md").read_text().splitlines()
    assert [line for line in listed if line.startswith("api/")] == [
        f"api/{room}" for room in api_pages.ROOMS
    ]


def test_everything_that_eqprop_exports_is_in_the_reference() -> None:
    import api_pages

    documented = {word.rpartition(".")[2] for _, text in api_pages.pages() for word in text.split()}
    # A room; registries are listed by what the module says of itself.
    rest = {
        "__version__",
        "distributed",
        "ACTIVATIONS",
        "COSTS",
        "DATASETS",
        "ESTIMATORS",
        "FIGURES",
    }
    assert set(vars(eqprop)["__all__"]) - documented <= rest


def test_a_reference_by_any_name_leads_to_the_name_that_is_documented() -> None:
    import api_pages

    names = api_pages.documented()
    assert names["eqprop.core.costs", "Cost"] == "eqprop.Cost"
    assert names["eqprop.core.phases", "relax"] == "eqprop.relax"
    assert names["eqprop.core.stepping", "movement"] == "eqprop.core.movement"


def test_every_setting_and_preset_has_a_line() -> None:
    import settings_pages

    settings, presets = settings_pages.settings(), settings_pages.presets()
    assert all(f"| `{field.name}` |" in settings for field in fields(Experiment))
    assert all(f"| `{name}` |" in presets for name in PRESETS)


def test_every_command_and_every_published_figure_has_its_help() -> None:
    import command_pages

    found = {" ".join(words) for words in command_pages.commands()}
    assert {"train", "evaluate", "predict", "show", "presets", "theorem", "bench"} <= found
    assert {f"reproduce {name}" for name in (*FIGURES, "all")} <= found


def test_every_run_that_is_kept_is_in_the_table_of_results_once() -> None:
    import results_page

    kept = len(list((ROOT / "results").glob("*/config.json")))
    rows = [line for line in results_page.page().splitlines() if line.startswith("| `")]
    assert kept == sum(len(row.split(" | ")[2].split()) for row in rows)
