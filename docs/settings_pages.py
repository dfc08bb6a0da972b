"""Tables of all settings and presets, from where they are declared."""

from dataclasses import fields
from itertools import groupby
from typing import Any

from eqprop.settings import PRESETS, Experiment
from eqprop.settings.fields import kind_of


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(_shown(item) for item in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def settings() -> str:
    """A table per group: option, what it is, what is expected, and the default."""
    lines = []
    ordered = sorted(fields(Experiment), key=lambda field: _groups().index(field.metadata["group"]))
    for group, those in groupby(ordered, key=lambda field: field.metadata["group"]):
        lines += [f"## {group.capitalize()}", ""]
        lines += ["| setting | what it is | expected | default |", "|---|---|---|---|"]
        for field in those:
            kind = kind_of(field)
            expected = kind.expected
            if field.metadata["allowed"] is not None:
                expected = field.metadata["allowed"].expected
            lines.append(
                f"| `{field.name}` | {_cell(field.metadata['help'])} | {_cell(expected)} "
                f"| `{_shown(field.default)}` |"
            )
        lines.append("")
    return "\n".join(lines)


def _groups() -> list[str]:
    return list(dict.fromkeys(field.metadata["group"] for field in fields(Experiment)))


def presets() -> str:
    """What each is, what was published, and how it differs from the default."""
    default = Experiment()
    lines = ["| preset | network | published, EP | published, BPTT |", "|---|---|---|---|"]
    for name, entry in PRESETS.items():
        published = entry.published_ep or "–", entry.published_bptt or "–"
        lines.append(f"| `{name}` | {_cell(entry.description)} | {' | '.join(published)} |")
    lines.append("")
    for name, entry in PRESETS.items():
        lines += [f"## {name}", "", entry.description, "", "| setting | |", "|---|---|"]
        changed = entry.experiment.differences(default)
        for setting in changed:
            lines.append(f"| `{setting}` | `{_shown(getattr(entry.experiment, setting))}` |")
        if not changed:
            lines.append("| | all as they are by default |")
        lines.append("")
    return "\n".join(lines)
