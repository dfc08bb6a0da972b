"""Greek letters and signs, spelt out where a terminal or a file cannot show them."""

import codecs

__all__ = ["SPELT"]

SPELT = "eqprop.spelt"
"""The name under which streams find this way to encode."""

_NAMES = {
    "β": "beta",
    "ε": "epsilon",
    "η": "eta",
    "θ": "theta",
    "λ": "lambda",
    "ρ": "rho",
    "σ": "sigma",
    "Φ": "Phi",
    "Δ": "Delta",
    "Ψ": "Psi",
    "ℓ": "l",
    "∂": "d",
    "→": "->",
    "−": "-",
    "–": "-",
    "×": "x",
    "÷": "/",
    "·": "*",
    "±": "+-",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "½": "1/2",
    "¼": "1/4",
    "²": "^2",
    "µ": "u",
    "°": " degrees",
    "…": "...",
    "’": "'",
    "“": '"',
    "”": '"',
    "█": "#",
}


def _spell(error: UnicodeError) -> tuple[str, int]:
    """A handler of the errors of encoding: names for what has one, escapes for anything else."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    spelt = (_NAMES.get(c, c.encode("ascii", "backslashreplace").decode()) for c in unknown)
    return "".join(spelt), error.end


codecs.register_error(SPELT, _spell)
