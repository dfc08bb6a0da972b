"""The published archives of MNIST, Fashion-MNIST and KMNIST: fetched once, checked always.

Each set is four gzipped IDX files.  They lie in `<data_dir>/<name of the set>/`, or where
torchvision puts them (`<data_dir>/MNIST/raw/`), and are downloaded into the former when absent.
Every file is compared with its published SHA-256 each time it is loaded, for several of the hosts
are plain http and disks fill up in the middle of a copy.  A file that differs is refused and left
alone: it is never deleted, and never trained on.

MNIST also goes around gzipped anew, or unpacked.  Such a file is accepted if its *contents* carry
the published hash.  For the other sets only the hashes of the archives are published: an unpacked
file of theirs proves nothing, and is left aside.

IDX (http://yann.lecun.com/exdb/mnist): two zero bytes, one byte for the type of the entries (8:
unsigned byte), one for the number of dimensions, each dimension as a big-endian 32-bit integer,
then the entries, last dimension fastest.
"""

import gzip
import hashlib
import http.client
import math
import os
import socket
import ssl
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final
from urllib.parse import urlsplit

import numpy as np

from eqprop.data.dataset import Source
from eqprop.errors import Failure, system_error
from eqprop.files import locked, naming

if TYPE_CHECKING:
    from requests import RequestException

__all__ = [
    "ARCHIVES",
    "FASHION_MNIST",
    "KMNIST",
    "MNIST",
    "ArchiveFile",
    "ArchiveSet",
    "DataError",
    "at_hand",
    "default_data_dir",
    "load_archives",
    "parse_idx",
    "read_archives",
]

TIMEOUT = 20
"""Seconds without an answer, or without further bytes, after which a mirror is given up."""

_GZIP = b"\x1f\x8b"
"""With what gzipped files begin; others are published as they are."""

UNSIGNED_BYTE = 0x08
"""The IDX type of all of these files."""


class DataError(Failure):
    """Data could not be had.

    The message is one line: what was wrong, what was expected and found, what to do.
    """


@final
@dataclass(frozen=True)
class ArchiveFile:
    """One published file.

    Attributes:
        name: its name, on the mirrors and on disk.
        size: its size in bytes.
        sha256: its SHA-256, in hexadecimal.
        content_sha256: the SHA-256 of its uncompressed contents, if that is published too: then any
            compression of the same contents is accepted, and none.
    """

    name: str
    size: int
    sha256: str
    content_sha256: str | None = None

    @property
    def unpacked(self) -> str:
        """Its name once it is unpacked."""
        return self.name.removesuffix(".gz")


@final
@dataclass(frozen=True)
class ArchiveSet:
    """The files of a data set and where to get them.

    Attributes:
        name: of the data set, and of its folder.
        mirrors: base URLs, to which the name of a file is appended, in the order they are tried.
        files: those that have to be there, in the order in which they are read.
        torchvision: the folder into which torchvision puts the same files, if it does.
    """

    name: str
    mirrors: tuple[str, ...]
    files: tuple[ArchiveFile, ...]
    torchvision: str | None = None


_NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def _published(
    name: str, torchvision: str, mirrors: tuple[str, ...], *files: tuple[Any, ...]
) -> ArchiveSet:
    """A set whose files are given by size, hash and, if it is published, hash of the contents."""
    named = zip(_NAMES, files, strict=True)
    archives = tuple(ArchiveFile(file, *of) for file, of in named)
    return ArchiveSet(name, mirrors, archives, f"{torchvision}/raw")


# The sizes are those that TensorFlow Datasets records beside the same hashes.
ARCHIVES: dict[str, ArchiveSet] = {
    archives.name: archives
    for archives in (
        _published(
            "mnist",
            "MNIST",
            (
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
            ),
            (
                9912422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            (
                28881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            (
                1648877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            (
                4542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ),
        _published(
            "fashion-mnist",
            "FashionMNIST",
            (
                "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            ),
            (26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
            (29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            (4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
            (5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        ),
        _published(
            "kmnist",
            "KMNIST",
            ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
            (18165135, "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4"),
            (29497, "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17"),
            (3041136, "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5"),
            (5120, "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c"),
        ),
    )
}
"""The data sets that come as archives of the format of MNIST, by name."""
"""The published archive sets, by name."""


def default_data_dir() -> Path:
    """Where the archives are kept: `$EQPROP_DATA` if set, else the user's cache folder."""
    if chosen := os.environ.get("EQPROP_DATA"):
        return Path(chosen).expanduser()
    import pooch

    return Path(pooch.os_cache("eqprop"))


def load_archives(
    archives: ArchiveSet, data_dir: str | Path | None = None, *, progress: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read the four files of a data set, downloading those that are absent.

    Any number of processes may call this at once.  A folder that is complete is only read, so it
    may be write-protected.

    Args:
        archives: the files and their mirrors, e.g. `ARCHIVES["mnist"]`.
        data_dir: holds one folder of archives per data set, or is the root of torchvision's data;
            `default_data_dir()` if not given.
        progress: show a progress bar for each download, if standard error is a terminal.

    Returns:
        Training images, training labels, test images, test labels, as read-only arrays of unsigned
        bytes; for the published sets of shapes (N, 28, 28) and (N,).

    Raises:
        DataError: a file on disk is not the published one or cannot be read, no mirror had the
            published file, or the folder cannot be written to.
    """
    first, second, third, fourth = (
        parse_idx(contents, str(path))
        for path, contents in read_archives(archives, data_dir, progress=progress)
    )
    return first, second, third, fourth


def read_archives(
    archives: ArchiveSet, data_dir: str | Path | None = None, *, progress: bool = True
) -> list[tuple[Path, bytes]]:
    """Where each file of a data set lies, and its uncompressed contents: see :func:`load_archives`.

    Raises:
        DataError: likewise.
    """
    places = _places(archives, data_dir)
    found = {file: _found(file, places) for file in archives.files}
    # What is there is judged first: no use in downloading beside a file that will be refused.
    contents = {file: _read(path, file) for file, path in found.items() if path is not None}
    if len(contents) < len(found):
        _mention_unpacked([file for file in found if file not in contents], places)
        with _download_right(places[0]):
            for file in found:
                if file not in contents:
                    # Another process may have been quicker while this one waited for the lock.
                    found[file] = path = _found(file, places) or places[0] / file.name
                    if not os.path.lexists(path):
                        _download(archives, file, path, progress)
                    contents[file] = _read(path, file)
    return [(path, contents[file]) for file, path in found.items() if path is not None]


def parse_idx(contents: bytes, source: str) -> np.ndarray:
    """The array in an (uncompressed) IDX file of unsigned bytes.

    Args:
        contents: the whole file.
        source: what to call it in an error message.

    Returns:
        A read-only array over `contents`, of the shape that the header gives.

    Raises:
        DataError: this is not IDX, the entries are not unsigned bytes, or the length does not fit
            the dimensions.
    """
    do = "check where the file came from"
    if len(contents) < 4 or contents[:3] != bytes([0, 0, UNSIGNED_BYTE]):
        raise DataError(
            f"{source} is not an IDX file of unsigned bytes: expected 00 00 08 and the number of "
            f"dimensions at its start, found {contents[:4].hex(' ') or 'nothing'}; {do}"
        )
    header = 4 + 4 * contents[3]
    if len(contents) < header:
        raise DataError(
            f"{source} ends within its IDX header: expected {header} bytes of it, "
            f"found {len(contents)}; {do}"
        )
    shape = struct.unpack_from(f">{contents[3]}I", contents, offset=4)
    entries = math.prod(shape)
    if len(contents) != header + entries:
        raise DataError(
            f"{source} has the wrong length: expected {header + entries} bytes for the dimensions "
            f"{'x'.join(map(str, shape))} in its header, found {len(contents)}; {do}"
        )
    return np.ndarray(shape, np.uint8, buffer=contents, offset=header)


def _places(archives: ArchiveSet, data_dir: str | Path | None) -> list[Path]:
    """The folders in which the files may lie; into the first they are downloaded."""
    root = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    return [root / name for name in (archives.name, archives.torchvision) if name is not None]


def _found(file: ArchiveFile, places: Sequence[Path]) -> Path | None:
    """Where a file lies, of which it can be told whether it is the published one."""
    names = [file.name] if file.content_sha256 is None else [file.name, file.unpacked]
    paths = [folder / name for folder in places for name in names]
    # `lexists`: a dangling link is the user's, too, and to be complained about, not replaced.
    return next((path for path in paths if os.path.lexists(path)), None)


def _mention_unpacked(absent: Sequence[ArchiveFile], places: Sequence[Path]) -> None:
    """Say why what may look like the data is left aside."""
    paths = [folder / file.unpacked for folder in places for file in absent]
    if unpacked := [path for path in paths if path.exists()]:
        print(
            f"{unpacked[0]} is left aside, as only the packed file can be verified, "
            f"{unpacked[0].name}.gz; put that beside it to have nothing downloaded",
            file=sys.stderr,
        )


def _read(path: Path, file: ArchiveFile) -> bytes:
    """The uncompressed contents of a file on disk, which must be the published one."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: expected a file of {file.size} bytes, found "
            f"{error.strerror or error}; make it readable, or delete it to have it downloaded again"
        ) from error
    try:
        return _unpack(raw, file, packed=path.name == file.name)
    except _MismatchError as mismatch:
        raise DataError(
            f"{path} is truncated or altered: {mismatch}; delete it to have it downloaded again"
        ) from mismatch


class _MismatchError(Exception):
    """Bytes that are not the published file: what was expected and what was found."""


def _unpack(raw: bytes, file: ArchiveFile, *, packed: bool = True) -> bytes:
    """The uncompressed contents of `raw`, which must be the published file, or its contents."""
    found = hashlib.sha256(raw).hexdigest()
    if found == file.content_sha256:
        return raw
    if not packed:
        raise _MismatchError(
            f"expected contents with sha256 {file.content_sha256}, "
            f"found {len(raw)} bytes with sha256 {found}"
        )
    mismatch = (
        f"expected {file.size} bytes with sha256 {file.sha256}, "
        f"found {len(raw)} bytes with sha256 {found}"
    )
    # What may be anything is decompressed only if there is a hash to judge the contents by.
    if found != file.sha256 and file.content_sha256 is None:
        raise _MismatchError(mismatch)
    if found == file.sha256 and not raw.startswith(_GZIP):
        return raw
    try:
        contents = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise _MismatchError(f"{mismatch}, no valid gzip ({_one_line(error)})") from error
    if found == file.sha256:
        return contents
    found_in = hashlib.sha256(contents).hexdigest()
    if found_in != file.content_sha256:
        raise _MismatchError(
            f"{mismatch}, nor are its uncompressed contents those with sha256 "
            f"{file.content_sha256} but {len(contents)} bytes with sha256 {found_in}"
        )
    return contents


@contextmanager
def _download_right(folder: Path) -> Iterator[None]:
    """Hold the right to download into `folder`, which is made if need be."""
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder / ".lock"))
        except OSError as error:
            raise DataError(
                f"{folder} lacks archives that cannot be downloaded into it: expected a folder "
                f"that can be written to, found {error.strerror or error}; choose another with "
                "--data-dir or EQPROP_DATA"
            ) from error
        yield


def _download(archives: ArchiveSet, file: ArchiveFile, path: Path, progress: bool) -> None:
    """Put the published file at `path`, from the first mirror that has it."""
    from pooch import HTTPDownloader

    # What pooch downloads with.
    from requests import RequestException

    download = HTTPDownloader(
        progressbar=progress and sys.stderr.isatty(),
        chunk_size=1 << 16,
        timeout=TIMEOUT,
        # Else a server may offer, and requests undo, a compression around or of the archive.
        headers={"Accept-Encoding": "identity"},
    )
    # Under the lock this name is nobody else's; what a killed process left there is overwritten.
    part = path.with_name(path.name + ".part")
    reasons = []
    for mirror in archives.mirrors:
        try:
            with naming(path, part):
                download(f"{mirror.rstrip('/')}/{file.name}", str(part), None)
                _unpack(part.read_bytes(), file)
                part.replace(path)
            return
        except RequestException as error:
            reasons.append(f"{urlsplit(mirror).netloc}: {_why(error)}")
        except _MismatchError as error:
            reasons.append(f"{urlsplit(mirror).netloc}: {error}")
        except OSError as error:
            # Not the mirror is to blame, but the disk.
            said = system_error(error, "or choose another folder with --data-dir or EQPROP_DATA")
            raise DataError(said) from error
        finally:
            part.unlink(missing_ok=True)
    raise DataError(
        f"{path}: expected it there or on a mirror, found neither ({', '.join(reasons)}); check "
        f"the network, or put {file.name} into {path.parent} by hand"
    )


def _why(error: "RequestException") -> str:
    """Why a mirror did not send a file, in few words."""
    if error.response is not None:
        return f"HTTP {error.response.status_code}"
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    for kind, words in (
        (TimeoutError, f"no answer within {TIMEOUT:g} s"),
        (socket.gaierror, "name not resolved"),
        (ConnectionRefusedError, "connection refused"),
        (ssl.SSLError, "no valid certificate"),
        (http.client.HTTPException, "connection broken off"),
        (ConnectionError, "connection broken off"),
    ):
        if any(isinstance(cause, kind) for cause in causes):
            return words
    return _one_line(causes[-1])[:80]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def at_hand(archives: ArchiveSet, data_dir: str | Path | None) -> bool:
    """Whether all files of a data set lie on this machine."""
    places = _places(archives, data_dir)
    paths = [_found(file, places) for file in archives.files]
    return all(path is not None and path.exists() for path in paths)


def _source(name: str) -> Source:
    archives = ARCHIVES[name]
    load = partial(load_archives, archives)
    return Source((1, 28, 28), 10, 255, load, partial(at_hand, archives))


MNIST, FASHION_MNIST, KMNIST = map(_source, ARCHIVES)
