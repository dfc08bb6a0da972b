"""Data that a person brings in files: arrays of numpy, and folders of images.

``npz:FILE`` is a file that ``numpy.savez`` has written, with arrays ``x_train``, ``y_train`` and,
if there are test samples of their own, ``x_test`` and ``y_test``. Inputs are (N, features), or
images (N, H, W), (N, C, H, W) or (N, H, W, C), C = 1, 3 or 4; labels are class numbers from 0,
(N,).

``regression:FILE`` is such a file whose ``y_train`` and ``y_test`` are targets that are no classes,
one number for every sample, (N,), or several, (N, targets).

``folder:DIR`` holds images as ``DIR/train/CLASS/NAME.png`` (or ``.jpg``, ``.jpeg``), all of one
size, and, if there are any, test images as ``DIR/test/CLASS/…``. The classes are numbered in the
order of their names. Images in colour are (3, H, W), grey ones (1, H, W); where there are both, all
are in colour. Grey ones may have 16 bits, if all have.

Bytes, and what has 16 bits in images, become 0 to 1; other numbers stay as they are. What pickles
in an ``.npz`` would run is never looked at.
"""

import sys
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from eqprop.data.archives import DataError
from eqprop.data.dataset import Source
from eqprop.errors import system_error

__all__ = ["folder", "images_at", "npz", "read_image", "regression"]

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

_CHANNELS = (1, 3, 4)
"""As many has an image, be it their first dimension or the last."""

_DAMAGED = (
    ValueError,
    EOFError,
    AttributeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy raises where a file is not what it should be."""

_IMAGES = (".png", ".jpg", ".jpeg")

_BRIGHTEST = {"L": 255.0, "RGB": 255.0, "I;16": 65535.0}
"""Of grey images, those in colour, and grey ones of 16 bits."""


def npz(file: str) -> Source:
    """The arrays of a file of numpy.

    Raises:
        DataError: there is no such file, it is damaged, lacks what is needed, or holds what is no
            number.
    """
    path = Path(file).expanduser()
    x, y, x_test, y_test = _arrays(path)
    labels = np.concatenate([y, y_test]) if len(y_test) else y
    return Source(
        input_shape=x.shape[1:],
        classes=_classes(path, labels),
        brightest=255.0 if x.dtype == np.uint8 else 1.0,
        load=lambda _: (x, y, x_test, y_test),
    )


def regression(file: str) -> Source:
    """The arrays of a file of numpy whose labels are targets.

    Raises:
        DataError: as for :func:`npz`; or targets that are not finite.
    """
    path = Path(file).expanduser()
    x, y, x_test, y_test = _arrays(path, targets=True)
    for name, values in (("y_train", y), ("y_test", y_test)):
        if not np.isfinite(values).all():
            sample = int((~np.isfinite(values)).any(1).argmax())
            raise DataError(
                f"{path}: expected finite targets, found {name}[{sample}] = {values[sample]}"
            )
    return Source(
        input_shape=x.shape[1:],
        classes=0,
        brightest=255.0 if x.dtype == np.uint8 else 1.0,
        load=lambda _: (x, y, x_test, y_test),
        targets=y.shape[1],
    )


def _arrays(path: Path, *, targets: bool = False) -> Arrays:
    """Inputs and labels; of a regression the latter (N, targets)."""
    found: dict[str, np.ndarray] = {}
    names: list[str] = []
    try:
        stored = np.load(path, allow_pickle=False)
        # One array alone is no archive of them.
        if isinstance(stored, np.lib.npyio.NpzFile):
            with stored:
                names = [*stored]
                wanted = ("x_train", "y_train", "x_test", "y_test")
                found = {name: stored[name] for name in wanted if name in names}
    except OSError as error:
        raise DataError(_unread(path, error)) from None
    except _DAMAGED as error:
        raise DataError(
            f"{path}: expected arrays of numbers, as numpy.savez writes them, found a file that "
            f"is damaged or holds something else ({error})"
        ) from None
    if weights := [name for name in names if name in ("w_train", "w_test")]:
        raise DataError(
            f"{path}: expected no weights of samples, which a command does not learn with, found "
            f"{', '.join(weights)}; learn with them in Python, by Dataset.from_arrays(…, w_train=…)"
        )
    needed = ["x_train", "y_train"]
    if "x_test" in found or "y_test" in found:
        needed += ["x_test", "y_test"]
    if any(name not in found for name in needed):
        listed = ", ".join(names) or "none by name"
        raise DataError(
            f"{path}: expected the arrays {', '.join(needed)}, found {listed}; write it by "
            "numpy.savez(file, x_train=…, y_train=…, x_test=…, y_test=…)"
        )
    for name, array in found.items():
        if array.dtype.kind not in "biuf" or array.ndim == 0:
            raise DataError(
                f"{path}: expected {name} as an array of numbers, found {array.dtype} of shape "
                f"{array.shape}"
            )
    x, y = _channels_first(found["x_train"]), found["y_train"]
    x_test = _channels_first(found["x_test"]) if "x_test" in found else x[:0]
    y_test = found["y_test"] if "y_test" in found else y[:0]
    for what, inputs, labels in (("train", x, y), ("test", x_test, y_test)):
        numbers = labels.ndim == 1 or (labels.ndim == 2 and (targets or labels.shape[1] == 1))
        if (
            not numbers
            or len(labels) != len(inputs)
            or inputs.ndim < 2
            or 0 in inputs.shape[1:]
            or 0 in labels.shape[1:]
        ):
            kind = "(N,) or (N, targets), numbers" if targets else "(N,), one class number"
            raise DataError(
                f"{path}: expected x_{what} (N, …) and y_{what} {kind} for every "
                f"sample, found {inputs.shape} and {labels.shape}"
            )
    if (x.shape[1:], x.dtype) != (x_test.shape[1:], x_test.dtype):
        raise DataError(
            f"{path}: expected x_test as x_train, {x.dtype} of shape (N, "
            f"{', '.join(map(str, x.shape[1:]))}), found {x_test.dtype} of shape {x_test.shape}"
        )
    if targets:
        y, y_test = (of.reshape(len(of), -1) if len(of) else of.reshape(0, 1) for of in (y, y_test))
        y_test = y_test if len(y_test) else y[:0]
        if y.shape[1] != y_test.shape[1]:
            raise DataError(
                f"{path}: expected y_test as y_train, {y.shape[1]} numbers for every sample, found "
                f"{y_test.shape[1]}"
            )
        return x, y.astype(np.float64), x_test, y_test.astype(np.float64)
    return x, y.reshape(-1), x_test, y_test.reshape(-1)


def _channels_first(x: np.ndarray) -> np.ndarray:
    """Images as (N, C, H, W), tables as they are."""
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.shape[3] in _CHANNELS and x.shape[1] not in _CHANNELS:
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return x


def _classes(path: Path, labels: np.ndarray) -> int:
    """How many there are, if the labels are class numbers."""
    if labels.dtype.kind == "f" and (labels == np.floor(labels)).all():
        said = "; make them whole numbers, as by y.astype(int)"
    else:
        said = (
            "; number the classes by names, y = numpy.unique(y, return_inverse=True), or, of "
            "targets that are no classes, write regression:FILE"
        )
    found = np.unique(labels)
    if len(found) < 2:
        raise DataError(
            f"{path}: expected samples of at least two classes, found {len(labels)} samples of "
            f"{len(found)}"
        )
    if labels.dtype.kind not in "biu" or found.tolist() != list(range(len(found))):
        raise DataError(
            f"{path}: expected labels that number the classes from 0 and leave none out, found "
            f"{labels.dtype} {', '.join(map(str, found[:5].tolist()))}{', …' * (len(found) > 5)}"
            f"{said}"
        )
    return len(found)


def folder(place: str) -> Source:
    """Images in folders named after their classes.

    Raises:
        DataError: there are none, of one class only, or an image that cannot be read or is of
            another size than the first.
    """
    path = Path(place).expanduser()
    train = _listed(path / "train")
    names = sorted({file.parent.name for file in train})
    if len(names) < 2:
        raise DataError(
            f"{path}: expected images train/CLASS/*.png or *.jpg of at least two classes, found "
            f"{', '.join(names) or 'none'}"
        )
    test = _listed(path / "test") if (path / "test").is_dir() else []
    if others := sorted({file.parent.name for file in test} - set(names)):
        raise DataError(
            f"{path}: expected test images of the classes of train ({', '.join(names)}), found "
            f"some of {', '.join(others)}"
        )
    size, mode = _kind_of(train, test)
    width, height = size
    return Source(
        input_shape=(3 if mode == "RGB" else 1, height, width),
        classes=len(names),
        brightest=_BRIGHTEST[mode],
        load=partial(_read_all, train, test, names, size, mode),
        class_names=tuple(names),
    )


def _listed(path: Path) -> list[Path]:
    """The images below the folders of their classes, in the order of their names."""
    try:
        return sorted(
            file
            for of_class in path.iterdir()
            if of_class.is_dir() and not of_class.name.startswith(".")
            for file in of_class.iterdir()
            if _is_image(file)
        )
    except OSError as error:
        raise DataError(_unread(path, error)) from None


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in _IMAGES and not file.name.startswith(".")


def images_at(path: Path) -> list[Path]:
    """The images of a folder, in the order of their names; a path that is none stays what it is.

    Raises:
        DataError: there is none in it, or it cannot be read.
    """
    if not path.is_dir():
        return [path]
    try:
        found = sorted(filter(_is_image, path.iterdir()))
    except OSError as error:
        raise DataError(_unread(path, error)) from None
    if not found:
        raise DataError(f"{path}: expected images *.png or *.jpg in the folder, found none")
    return found


def _kind_of(train: Sequence[Path], test: Sequence[Path]) -> tuple[tuple[int, int], str]:
    """Width and height of the images, and whether they are grey (``L``, of 16 bits ``I;16``) or in
    colour (``RGB``): by the first of every class."""
    firsts = {(file.parent.parent, file.parent): file for file in reversed([*train, *test])}
    opened = [_opened(file) for file in firsts.values()]
    size = opened[0].size if opened[0].filename == str(train[0]) else _opened(train[0]).size
    if all(map(_deep, opened)):
        return size, "I;16"
    return size, "L" if all(image.mode in ("1", "L") for image in opened) else "RGB"


def _deep(image: Any) -> bool:
    """Whether it is grey, and has more than 8 bits: Pillow would cut them off."""
    return image.mode.startswith("I") or image.mode == "F"


def _opened(file: Path) -> Any:
    # Comes with matplotlib; only who has images waits for it.
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(file)
    except UnidentifiedImageError:
        raise DataError(f"{file}: expected an image, found something else") from None
    except OSError as error:
        raise DataError(_unread(file, error)) from None


def _read_all(
    train: Sequence[Path],
    test: Sequence[Path],
    names: Sequence[str],
    size: tuple[int, int],
    mode: str,
    _: str | Path | None,
) -> Arrays:
    from tqdm import tqdm

    numbers = {name: number for number, name in enumerate(names)}
    bar = tqdm(
        total=len(train) + len(test),
        desc="reading images",
        unit="image",
        file=sys.stderr,
        leave=False,
        delay=2,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        arrays = []
        for files in (train, test):
            shape = (len(files), size[1], size[0], *(3,) * (mode == "RGB"))
            images = np.empty(shape, np.uint16 if mode == "I;16" else np.uint8)
            for index, file in enumerate(files):
                images[index] = _read(file, size, mode)
                bar.update()
            arrays.append(images.transpose(0, 3, 1, 2) if mode == "RGB" else images[:, None])
            arrays.append(np.array([numbers[file.parent.name] for file in files], np.int64))
    return tuple(arrays)


def read_image(file: Path, shape: tuple[int, ...], brightest: float = 255.0) -> np.ndarray:
    """One image (C, H, W), of bytes, or of 16 bits if ``brightest`` is more than 255.

    Args:
        shape: that (C, H, W), C 1 (grey) or 3 (in colour).

    Raises:
        DataError: it is no image, or one of another size.
    """
    channels, height, width = shape
    mode = "RGB" if channels == 3 else "I;16" if brightest > _BRIGHTEST["L"] else "L"
    pixels = _read(file, (width, height), mode, "the data of the run")
    return pixels.transpose(2, 0, 1) if channels == 3 else pixels[None]


def _read(
    file: Path, size: tuple[int, int], mode: str, like: str = "the first image"
) -> np.ndarray:
    with _opened(file) as image:
        if image.size != size:
            raise DataError(
                f"{file}: expected {size[0]}×{size[1]} pixels, as {like} has, found "
                f"{image.size[0]}×{image.size[1]}; bring all to one size"
            )
        if _deep(image) != (mode == "I;16"):
            bits = [f"{'16' if deep else '8'} bits" for deep in (mode == "I;16", _deep(image))]
            raise DataError(
                f"{file}: expected {bits[0]} of each pixel, as {like} has, found {bits[1]}; bring "
                "all to one"
            )
        try:
            if mode == "I;16":
                return np.asarray(image).astype(np.uint16)
            return np.asarray(image.convert(mode))
        except (OSError, SyntaxError) as error:
            raise DataError(
                f"{file}: expected a whole image, found a damaged one ({error})"
            ) from None


def _unread(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path}: expected data there, found nothing of that name"
    if isinstance(error, IsADirectoryError):
        return f"{path}: expected a file, found a folder; of images in folders write folder:DIR"
    return system_error(
        error if error.filename else OSError(error.errno, error.strerror, str(path))
    )
