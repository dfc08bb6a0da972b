"""Random shifts move images, whole pixels at a time, and nothing else."""

from typing import Any

import pytest
import torch

from eqprop.data.augmentation import random_flip, random_shift


def test_every_image_is_moved_by_up_to_so_many_pixels_each_way() -> None:
    images = torch.zeros(500, 2, 7, 9)
    images[:, 0, 3, 4], images[:, 1, 3, 4] = 1.0, 2.0
    moved = random_shift(images, torch.Generator().manual_seed(0), pixels=2)
    assert moved.shape == images.shape
    places = moved[:, 0].flatten(1).argmax(1)
    rows, columns = places // 9 - 3, places % 9 - 4
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {
        (row, column) for row in range(-2, 3) for column in range(-2, 3)
    }
    # All channels go together, and nothing is lost that stays inside.
    assert torch.equal(moved[:, 1], 2 * moved[:, 0])
    assert torch.equal(moved.sum((1, 2, 3)), images.sum((1, 2, 3)))


def test_what_leaves_the_image_does_not_come_back_on_the_other_side() -> None:
    images = torch.ones(64, 1, 4, 4)
    moved = random_shift(images, torch.Generator().manual_seed(1), pixels=1)
    for image in moved[:, 0]:
        rows, columns = image.amax(1), image.amax(0)
        assert torch.equal(image, rows[:, None] * columns)
        assert rows.sum() >= 3
        assert columns.sum() >= 3
    assert moved.sum() < images.sum()


def test_the_same_generator_gives_the_same_shifts() -> None:
    images = torch.rand(8, 1, 5, 5)
    first, second = (
        random_shift(images, torch.Generator().manual_seed(3), pixels=2) for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("shape", [(5, 13), (5, 8, 8)], ids=str)
def test_what_is_no_image_is_not_moved(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"random_shift: expected images \(B, C, H, W\)"):
        random_shift(torch.rand(shape), torch.Generator(), pixels=1)


@pytest.mark.parametrize("pixels", [-1, 1.5, "1"])
def test_an_image_is_moved_by_whole_pixels(pixels: Any) -> None:
    with pytest.raises(ValueError, match=r"pixels: expected a whole number of at least 0, got"):
        random_shift(torch.rand(2, 1, 4, 4), torch.Generator(), pixels=pixels)


def test_what_moves_in_at_an_edge_is_the_edge_again() -> None:
    images = torch.arange(5.0).expand(300, 1, 5, 5)
    moved = random_shift(images, torch.Generator().manual_seed(0), pixels=2, fill="edge")
    rows = {tuple(image[0, 2].tolist()) for image in moved}
    assert rows == {
        tuple(min(4.0, max(0.0, column + by)) for column in range(5)) for by in range(-2, 3)
    }


def test_every_other_image_is_mirrored_with_all_its_channels() -> None:
    images = torch.rand(400, 3, 4, 5)
    flipped = random_flip(images, torch.Generator().manual_seed(0))
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    same = (flipped == images).flatten(1).all(1)
    assert torch.equal(mirrored, ~same)
    # Of 400 fair coins, 200 ± 10: five deviations.
    assert 150 < int(mirrored.sum()) < 250


def test_a_table_is_not_mirrored_and_another_filling_is_none() -> None:
    with pytest.raises(ValueError, match=r"random_flip: expected images \(B, C, H, W\)"):
        random_flip(torch.rand(5, 13), torch.Generator())
    fill: Any = "mirror"
    with pytest.raises(ValueError, match="fill: expected one of zeros, edge, got 'mirror'"):
        random_shift(torch.rand(2, 1, 4, 4), torch.Generator(), pixels=1, fill=fill)
