"""Colour images come from the published archives, and from no pickle."""

import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eqprop.data.archives import ArchiveSet, DataError
from eqprop.data.colour import _CIFAR_10, _CIFAR_100, _SVHN, load_cifar, load_svhn


def packed(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, contents in members.items():
            info = tarfile.TarInfo(f"folder/{name}")
            info.size = len(contents)
            archive.addfile(info, io.BytesIO(contents))
    return buffer.getvalue()


def laid_down(archives: ArchiveSet, folder: Path, *files: bytes) -> ArchiveSet:
    """The same set, of these contents, which lie there."""
    (folder / archives.name).mkdir()
    named = []
    for file, contents in zip(archives.files, files, strict=True):
        (folder / archives.name / file.name).write_bytes(contents)
        named.append(replace(file, sha256=hashlib.sha256(contents).hexdigest()))
    return replace(archives, files=tuple(named), mirrors=())


def records(samples: int, labels: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers(0, 10, (samples, labels + 3072))
    return drawn.astype(np.uint8)


@pytest.mark.parametrize(("of", "labels"), [(_CIFAR_10, 1), (_CIFAR_100, 2)])
def test_records_of_cifar_become_images_and_fine_labels(
    tmp_path: Path, of: ArchiveSet, labels: int
) -> None:
    one, two, test = (records(3, labels, seed) for seed in range(3))
    archives = laid_down(
        of,
        tmp_path,
        packed(
            {"b.bin": two.tobytes(), "a.bin": one.tobytes(), "t.bin": test.tobytes(), "x": b"0"}
        ),
    )
    x, y, x_test, y_test = load_cifar(archives, ("a.bin", "b.bin"), "t.bin", labels, tmp_path)
    assert x.shape == (6, 3, 32, 32)
    assert x_test.shape == (3, 3, 32, 32)
    both = np.concatenate([one, two])
    assert np.array_equal(y, both[:, labels - 1])
    # Channel by channel, and row by row within it.
    assert x[4, 2, 5, 7] == both[4, labels + 2 * 1024 + 5 * 32 + 7]
    assert np.array_equal(y_test, test[:, labels - 1])


def test_an_archive_that_lacks_a_part_says_which(tmp_path: Path) -> None:
    archives = laid_down(_CIFAR_10, tmp_path, packed({"a.bin": records(1, 1, 0).tobytes()}))
    with pytest.raises(
        DataError, match=r"cifar-10-binary.tar.gz: expected t.bin in it, found none"
    ):
        load_cifar(archives, ("a.bin",), "t.bin", 1, tmp_path)


def test_an_altered_archive_of_cifar_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "cifar-10").mkdir()
    (tmp_path / "cifar-10" / _CIFAR_10.files[0].name).write_bytes(packed({"a.bin": b""}))
    with pytest.raises(DataError, match="truncated or altered: expected 170052171 bytes"):
        load_cifar(_CIFAR_10, ("a.bin",), "t.bin", 1, tmp_path)


def test_digits_of_svhn_count_from_0_and_have_their_channels_first(tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    files, images = [], []
    for seed in range(2):
        drawn = np.random.default_rng(seed).integers(0, 256, (32, 32, 3, 4)).astype(np.uint8)
        buffer = io.BytesIO()
        savemat(buffer, {"X": drawn, "y": np.array([[10], [1], [9], [10]], np.uint8)})
        files.append(buffer.getvalue())
        images.append(drawn)
    archives = laid_down(_SVHN, tmp_path, *files)
    x, y, x_test, y_test = load_svhn(archives, tmp_path)
    assert y.tolist() == y_test.tolist() == [0, 1, 9, 0]
    assert x.shape == (4, 3, 32, 32)
    assert x[2, 1, 5, 7] == images[0][5, 7, 1, 2]
    assert x_test[3, 0, 31, 0] == images[1][31, 0, 0, 3]
