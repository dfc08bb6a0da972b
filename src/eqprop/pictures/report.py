"""What was found of a model, in words and tables: what the command line prints."""

import math
from collections.abc import Mapping, Sequence

from eqprop.analysis.agreement import Average, Premise
from eqprop.analysis.diagnosis import BetaCurve, Cell, Diagnosis
from eqprop.analysis.settling_steps import SettlingSteps
from eqprop.pictures.tables import table

__all__ = ["settling_text", "sweep_text", "theorem_text"]

_SYMBOLS = {"beta": "β", "free_steps": "T", "nudged_steps": "K"}


def theorem_text(diagnosis: Diagnosis, width: int = 80) -> str:
    """What kind of model it is, how well EP agrees with BPTT, and whether the premise holds.

    Args:
        width: how many characters there is room for in a table.
    """
    kind = diagnosis.kind
    said = [f"model: {kind.said}", f"as β → 0: {diagnosis.expected}"]
    for eta, found in zip(diagnosis.etas, diagnosis.by_eta, strict=True):
        of = f"η = {eta:g}" + ", single steps" * kind.in_turn
        headers = of, "relative error", "cosine", "angle", "equal signs"
        spread = f" ± {found.spread.total_update_angle:.1g}" if found.batches > 1 else ""
        steps = table(headers, _rows(found, diagnosis.labels), width=width).rstrip("\n")
        total = (
            f"angle between the total update of {diagnosis.by} and minus the total gradient of "
            f"BPTT, weights: {_number(found.mean.total_update_angle, '.3g', f'{spread}°')}"
        )
        # What is to agree comes first.
        said += ["", total, "", steps] if kind.in_turn else ["", steps, total]
    premise = diagnosis.premise
    residual = _by_layer(premise, [f"{value:.1e}" for value in premise.residual])
    curve = diagnosis.curve
    if curve.beta:
        headers = "error against β", "states", "parameters", "angle of the total"
        said += ["", table(headers, _points(curve), width=width).rstrip("\n"), _trend(curve)]
    said += ["", f"residual of the free phase: {residual}"]
    said += _held(diagnosis)
    said += _verdict(diagnosis)
    return "\n".join(said) + "\n"


def _rows(found: Average, labels: Mapping[str, str]) -> list[tuple[str, ...]]:
    """What is compared, and how well it agrees."""
    rows = []
    for whole, parts in (("states", "by_layer"), ("parameters", "by_parameter")):
        means, spreads = (
            {whole: getattr(of, whole)}
            | {f"  {labels.get(name, name)}": a for name, a in getattr(of, parts).items()}
            for of in (found.mean, found.spread)
        )
        for label, of in means.items():
            mean, spread = of.overall, spreads[label].overall.relative_error
            error = f"{mean.relative_error:.3g}" + f" ± {spread:.1g}" * (found.batches > 1)
            signs = _number(100 * mean.sign_agreement, ".2f", " %")
            cosine, angle = _number(mean.cosine, ".5f"), _number(mean.angle, ".3g", "°")
            rows.append((label, error, cosine, angle, signs))
    return rows


def _number(value: float, form: str, unit: str = "") -> str:
    """Nothing where there is none: what is 0 throughout has no sign and no direction."""
    return "–" if math.isnan(value) else f"{value:{form}}{unit}"


def _points(curve: BetaCurve) -> list[tuple[str, ...]]:
    columns = curve.beta, curve.steady, curve.states, curve.parameters, curve.angles
    return [
        (
            f"β = {beta:g}{'' if steady else ', not steady'}",
            f"{states:.3g}",
            f"{parameters:.3g}",
            _number(angle, ".3g", "°"),
        )
        for beta, steady, states, parameters, angle in reversed(list(zip(*columns, strict=True)))
    ]


def _trend(curve: BetaCurve) -> str:
    """How the error goes with β: in proportion to a power of it, or not below a level."""
    steady = [index for index, steady in enumerate(curve.steady) if steady]
    if len(steady) < 2:
        return "no slope, as the free phase was not steady"
    said = []
    for name in ("states", "parameters"):
        errors = getattr(curve, name)
        slope, level = curve.slope(errors), curve.level(errors)
        if level is not None:
            said.append(f"{name} levels off at {level:.2g}")
        elif slope < 0:
            said.append(f"{name} grows as β falls")
        else:
            said.append(f"{name} ∝ β^{slope:.2f}")
    return f"error of {', of '.join(said)}"


def _held(diagnosis: Diagnosis) -> list[str]:
    """Units at a bound, or where ρ is flat, and what the others come to."""
    premise = diagnosis.premise
    said = []
    if any(premise.held):
        where = "at a bound of the clip" if premise.holding == "clip" else "where ρ is flat"
        said.append(f"units {where}: {_by_layer(premise, _shares(premise.held))}")
    if premise.holding == "clip" and any(premise.held):
        error = diagnosis.by_eta[0].mean.unheld.overall.relative_error
        said[-1] += f"; relative error of the states of all others: {error:.3g}"
    if premise.holding == "activation" and premise.held and premise.held[-1]:
        said[-1] += "; the nudge moves such an output, and BPTT passes nothing through it"
    if any(premise.crossed):
        crossed = _by_layer(premise, _shares(premise.crossed))
        said.append(f"units that come there or leave while nudged: {crossed}")
    return said


def _shares(shares: Sequence[float]) -> list[str]:
    return [f"{100 * share:.2g} %" if share < 1 else "all" for share in shares]


def _by_layer(premise: Premise, words: Sequence[str]) -> str:
    return ", ".join(f"{layer} {word}" for layer, word in zip(premise.layers, words, strict=True))


def _verdict(diagnosis: Diagnosis) -> list[str]:
    premise, kind = diagnosis.premise, diagnosis.kind
    if not premise.holds:
        return [f"PREMISE FAILS: {problem}" for problem in premise.problems]
    if kind.in_turn:
        return [
            "premise: the free phase was steady; as layers are updated in turn, the total is what "
            "is to agree, and no single step"
        ]
    if kind.name == "exact" or diagnosis.conditions.dynamics.error:
        return ["premise: holds, the free phase was steady"]
    of = "the gradient of no Φ" if kind.name == "approximate" else "from no Φ"
    return [f"premise: the free phase was steady, but F is {of} ({kind.name}, see above)"]


def sweep_text(cells: Sequence[Cell], width: int = 80) -> str:
    """The points of a sweep, a row each.

    Args:
        width: how many characters there is room for.
    """
    names = list(cells[0].settings)
    headers = (
        *(_SYMBOLS[name] for name in names),
        "error of s",
        "of θ",
        "equal signs of s",
        "of θ",
        "angle",
        "residual",
        "premise",
    )
    rows = []
    for cell in cells:
        mean = cell.average.mean
        states, parameters = mean.states.overall, mean.parameters.overall
        rows.append(
            (
                *(f"{cell.settings[name]:g}" for name in names),
                f"{states.relative_error:.3g}",
                f"{parameters.relative_error:.3g}",
                _number(100 * states.sign_agreement, ".2f", " %"),
                _number(100 * parameters.sign_agreement, ".2f", " %"),
                _number(mean.total_update_angle, ".3g", "°"),
                f"{max(mean.premise.residual):.1e}",
                "holds" if mean.premise.holds else "FAILS",
            )
        )
    said = table(headers, rows, text=0, keys=len(names), width=width)
    return f"{said}s: states, θ: parameters; angle: of the total update, weights\n"


def settling_text(found: SettlingSteps, width: int = 80) -> str:
    """How many steps the samples take to come to rest, a row for each phase.

    Args:
        width: how many characters there is room for.
    """
    headers = ("steps until rest", "samples", "median", "90 %", "99 %", "largest")
    rows = [
        (
            phase.phase.replace("phase (beta ", "(β = "),
            str(len(phase.steps)),
            *(_steps(phase.least(share), phase.most) for share in (0.5, 0.9, 0.99)),
            _steps(None if phase.restless else phase.largest, phase.most),
            str(phase.restless),
            str(phase.cycling),
        )
        for phase in (found.free, *found.nudged)
    ]
    return table((*headers, "not at rest", "two-cycles"), rows, width=width)


def _steps(count: int | None, most: int) -> str:
    return f"> {most}" if count is None else str(count)
