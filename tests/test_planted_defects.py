"""The list of planted defects fits the code, and a defect is what its change says."""

import ast

import pytest

from planted_defects import check, defects, fits, parsed


@pytest.mark.parametrize(
    ("change", "code", "fitting"),
    [
        ("A / (B - C) -> A", "-1 / (upper  -  lower)", True),
        ("A / (B - C) -> A", "-1 / (upper + lower)", False),
        ("A - A -> 0", "x.mean() - x.mean()", True),
        ("A - A -> 0", "x.mean() - y.mean()", False),
        ("beta * A -> A", "beta * s", True),
        ("beta * A -> A", "eta * s", False),
        ("f(A) -> A", "f(x, y)", False),
        ("f(A, key=B) -> A", "f(x, key=y)", True),
    ],
)
def test_letters_stand_for_any_expression_and_formatting_plays_no_part(
    change: str, code: str, fitting: bool
) -> None:
    pattern, _ = parsed(change)
    assert fits(pattern, ast.parse(code, mode="eval").body, {}) is fitting


def test_every_planted_defect_fits_the_code_and_has_a_test_that_must_notice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert check(defects()) == 0, capsys.readouterr().out


def test_no_two_planted_defects_have_one_name() -> None:
    names = [defect.description for defect in defects()]
    assert len(set(names)) == len(names)
