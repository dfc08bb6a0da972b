"""Tables fit where they are printed, and no number is broken."""

import io
import itertools
import sys

import pytest

from eqprop.cli.tables import columns, print_table
from eqprop.pictures.tables import table

HEADERS = ("preset", "what it is", "ms per batch", "T", "of peak", "residual, largest")
ROWS = [
    ("p-1h", "prototypical, one hidden layer", "1.25", "30", "80 %", "1.2e-10"),
    ("a-long-name", "short", "1030.00", "5.8 ≤ 1000", "9 %", "–"),
]


@pytest.mark.parametrize("width", [200, 100, 80, 60, 40])
def test_every_word_is_there_and_no_line_is_wider_than_there_is_room(width: int) -> None:
    said = table(HEADERS, ROWS, text=2, width=width)
    assert max(map(len, said.splitlines())) <= width
    words = said.split()
    for cell in itertools.chain(HEADERS, *ROWS):
        for word in cell.split():
            assert word in words
    for number in ("1.25", "1030.00", "5.8 ≤ 1000", "80 %", "1.2e-10"):
        assert f" {number}" in said, "numbers are never broken"


def test_where_there_is_room_a_row_is_a_line() -> None:
    said = table(HEADERS, ROWS, text=2, width=200).splitlines()
    assert len(said) == 3
    assert said[1].split("  ")[0] == "p-1h"
    # Numbers end below one another, words begin so.
    assert (
        len(
            {
                line.rindex(cell) + len(cell)
                for line, cell in zip(said, ("largest", "1.2e-10", "–"), strict=True)
            }
        )
        == 1
    )
    assert {
        line.index(cell) for line, cell in zip(said, ("what", "proto", "short"), strict=True)
    } == {13}


def test_columns_without_room_stand_below_with_the_names_of_their_rows() -> None:
    said = table(HEADERS, ROWS, text=2, width=48)
    bands = said.split("\n\n")
    assert len(bands) > 1
    for band in bands:
        first = [line.split()[0] for line in band.splitlines() if line[:1].strip()]
        assert first[:2] == ["preset", "p-1h"]
        assert "a-long-name" in first


def test_however_little_room_there_is_nothing_is_lost() -> None:
    said = table(HEADERS, ROWS, text=2, width=12)
    assert "".join(said.split()).count("p-1h") >= 1
    assert all(digit in said for digit in ("80", "1.2"))


@pytest.mark.parametrize(("said", "expected"), [("", 80), ("60", 60), ("wide", 80), ("0", 80)])
def test_a_file_has_80_columns_or_those_of_the_environment(
    said: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", said)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert columns() == expected
    print_table(HEADERS, ROWS * 2, text=2)
    assert isinstance(sys.stdout, io.StringIO)
    assert max(map(len, sys.stdout.getvalue().splitlines())) <= expected
