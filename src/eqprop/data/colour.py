"""The published archives of CIFAR-10, CIFAR-100 and SVHN: colour images, 3×32×32.

They are fetched and checked as those of MNIST are, see :mod:`eqprop.data.archives`. Only formats
that hold numbers alone are read: of CIFAR the binary version, never its pickles; of SVHN the
cropped digits, without the extra ones, as MATLAB files, for which scipy is needed.

A record of CIFAR-10 is the class and 3·32·32 bytes, channel by channel; one of CIFAR-100 has the
number of the coarse class before that of the fine one, which is the class here. SVHN calls the
digit 0 class 10; here it is class 0.

Source: https://www.cs.toronto.edu/~kriz/cifar.html; http://ufldl.stanford.edu/housenumbers.
"""

import io
import tarfile
from functools import partial
from pathlib import Path

import numpy as np

from eqprop.data.archives import ArchiveFile, ArchiveSet, DataError, at_hand, read_archives
from eqprop.data.dataset import Source

__all__ = ["CIFAR_10", "CIFAR_100", "SVHN"]

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

_KRIZ = ("https://www.cs.toronto.edu/~kriz/",)
_PIXELS = 3 * 32 * 32

_CIFAR_10 = ArchiveSet(
    "cifar-10",
    _KRIZ,
    (
        ArchiveFile(
            "cifar-10-binary.tar.gz",
            170052171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        ),
    ),
)
_CIFAR_100 = ArchiveSet(
    "cifar-100",
    _KRIZ,
    (
        ArchiveFile(
            "cifar-100-binary.tar.gz",
            168513733,
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        ),
    ),
)
_SVHN = ArchiveSet(
    "svhn",
    ("http://ufldl.stanford.edu/housenumbers/",),
    (
        ArchiveFile(
            "train_32x32.mat",
            182040794,
            "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        ),
        ArchiveFile(
            "test_32x32.mat",
            64275384,
            "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        ),
    ),
)


def load_cifar(
    archives: ArchiveSet,
    train: tuple[str, ...],
    test: str,
    labels: int,
    data_dir: str | Path | None = None,
) -> Arrays:
    """Training images, training labels, test images and test labels of a set of CIFAR's.

    Args:
        train: the names of the members of the archive to learn from.
        test: the name of the one to test on.
        labels: bytes before the pixels of a record; the last one is the class.

    Raises:
        DataError: the archive cannot be had, is not the published one, or lacks a member.
    """
    ((path, contents),) = read_archives(archives, data_dir)
    members: dict[str, np.ndarray] = {}
    with tarfile.open(fileobj=io.BytesIO(contents)) as archive:
        for member in archive:
            name = member.name.rsplit("/", 1)[-1]
            file = archive.extractfile(member) if name in (*train, test) else None
            if file is not None:
                records = np.frombuffer(file.read(), np.uint8)
                members[name] = records.reshape(-1, labels + _PIXELS)
    if missing := [name for name in (*train, test) if name not in members]:
        raise DataError(
            f"{path}: expected {missing[0]} in it, found none; delete it to have it "
            "downloaded again"
        )
    learnt = np.concatenate([members[name] for name in train])
    return (*_split(learnt, labels), *_split(members[test], labels))


def _split(records: np.ndarray, labels: int) -> tuple[np.ndarray, np.ndarray]:
    return records[:, labels:].reshape(-1, 3, 32, 32), records[:, labels - 1]


def load_svhn(archives: ArchiveSet, data_dir: str | Path | None = None) -> Arrays:
    """Training images, training labels, test images and test labels of SVHN.

    Raises:
        DataError: a file cannot be had or is not the published one, or scipy is missing.
    """
    found: list[np.ndarray] = []
    for path, contents in read_archives(archives, data_dir):
        try:
            from scipy.io import loadmat
        except ImportError as error:
            raise DataError(
                f"{path}: expected scipy, which reads MATLAB files, found none; install it with "
                "pip install scipy"
            ) from error
        arrays = loadmat(io.BytesIO(contents))
        found += [arrays["X"].transpose(3, 2, 0, 1), arrays["y"].reshape(-1) % 10]
    first, second, third, fourth = found
    return first, second, third, fourth


def _source(archives: ArchiveSet, classes: int, load: partial[Arrays], names: str = "") -> Source:
    here = partial(at_hand, archives)
    return Source((3, 32, 32), classes, 255, load, here, tuple(names.split()))


CIFAR_10 = _source(
    _CIFAR_10,
    10,
    partial(
        load_cifar,
        _CIFAR_10,
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        "test_batch.bin",
        1,
    ),
    "airplane automobile bird cat deer dog frog horse ship truck",
)
CIFAR_100 = _source(_CIFAR_100, 100, partial(load_cifar, _CIFAR_100, ("train.bin",), "test.bin", 2))
SVHN = _source(_SVHN, 10, partial(load_svhn, _SVHN))
