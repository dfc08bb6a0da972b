"""Archives are downloaded when absent, checked always, and never silently wrong."""

import dataclasses
import errno
import gzip
import hashlib
import io
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pooch import HTTPDownloader

import eqprop.data.archives as archives_module
from eqprop.data.archives import (
    ARCHIVES,
    ArchiveFile,
    ArchiveSet,
    DataError,
    default_data_dir,
    load_archives,
    parse_idx,
)

NAMES: tuple[str, ...] = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


GENERATOR = np.random.default_rng(0)
ARRAYS = tuple(
    GENERATOR.integers(0, 256, shape, np.uint8) for shape in [(6, 5, 4), (6,), (3, 5, 4), (3,)]
)
CONTENTS: dict[str, bytes] = dict(zip(NAMES, map(idx, ARRAYS), strict=True))
PUBLISHED = {name: gzip.compress(data, mtime=0) for name, data in CONTENTS.items()}
ANEW = {name: gzip.compress(data, 1, mtime=1) for name, data in CONTENTS.items()}
FILE = {name: ArchiveFile(name, len(raw), sha256(raw)) for name, raw in PUBLISHED.items()}
SET = ArchiveSet("tiny", (), tuple(FILE[name] for name in NAMES))
SET_WITH_CONTENTS = dataclasses.replace(
    SET,
    files=tuple(
        dataclasses.replace(file, content_sha256=sha256(CONTENTS[file.name])) for file in SET.files
    ),
)


MNIST = Path(os.environ.get("EQPROP_DATA", "")) / "mnist"


class Mirrors:
    """Well and badly behaved mirrors on the loopback interface, each below a path of its own."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        mirrors = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirrors.requests.append(self.path)
                _, kind, name = self.path.split("/")
                good = PUBLISHED[name]
                if kind == "lost":
                    self.send_error(404)
                    return
                if kind == "silent":
                    mirrors.stop.wait(10)
                    return
                if kind == "rude":
                    self.connection.close()
                    return
                if kind == "slow":
                    time.sleep(0.05)
                body = {
                    "altered": good[:-1] + bytes([good[-1] ^ 1]),
                    "cut": good[:-7],
                    "anew": ANEW[name],
                }.get(kind, good)
                self.send_response(200)
                self.send_header("Content-Length", str(len(good if kind == "cut" else body)))
                if kind == "eager" and "gzip" in self.headers.get("Accept-Encoding", ""):
                    # As static file servers do that take the suffix for a transfer encoding.
                    self.send_header("Content-Encoding", "gzip")
                self.end_headers()
                if kind == "stuck":
                    mirrors.stop.wait(10)
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.stop = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def url(self, kind: str) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/{kind}/"

    def close(self) -> None:
        self.stop.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def mirrors() -> Iterator[Mirrors]:
    mirrors = Mirrors()
    yield mirrors
    mirrors.close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def closed_ports(count: int) -> list[str]:
    """Addresses at which nobody answers."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    urls = [f"http://127.0.0.1:{each.getsockname()[1]}/" for each in sockets]
    for each in sockets:
        each.close()
    return urls


def at(*urls: str, archives: ArchiveSet = SET) -> ArchiveSet:
    return dataclasses.replace(archives, mirrors=urls)


def fill(data_dir: Path, files: dict[str, bytes] = PUBLISHED) -> Path:
    folder = data_dir / SET.name
    folder.mkdir()
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    return folder


def on_disk(folder: Path) -> dict[str, bytes]:
    """What lies in the folder, apart from the lock."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def assert_loaded(loaded: tuple[np.ndarray, ...]) -> None:
    assert len(loaded) == 4
    for found, expected in zip(loaded, ARRAYS, strict=True):
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)


def refusal(archives: ArchiveSet, data_dir: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_archives(archives, data_dir)
    message = str(caught.value)
    assert "\n" not in message
    assert "expected" in message
    assert "found" in message
    assert "None" not in message
    return message


# Downloading


def test_absent_files_are_downloaded_and_parsed(tmp_path: Path, mirrors: Mirrors) -> None:
    assert_loaded(load_archives(at(mirrors.url("good")), tmp_path / "new" / "folder"))
    assert on_disk(tmp_path / "new" / "folder" / "tiny") == PUBLISHED


def test_a_mirror_may_be_written_without_the_last_slash(tmp_path: Path, mirrors: Mirrors) -> None:
    assert_loaded(load_archives(at(mirrors.url("good").rstrip("/")), tmp_path))


def test_what_was_downloaded_is_not_downloaded_again(tmp_path: Path, mirrors: Mirrors) -> None:
    load_archives(at(mirrors.url("good")), tmp_path)
    assert_loaded(load_archives(at(mirrors.url("good")), tmp_path))
    assert sorted(mirrors.requests) == sorted(f"/good/{name}" for name in NAMES)


def test_only_the_absent_file_is_downloaded(tmp_path: Path, mirrors: Mirrors) -> None:
    folder = fill(tmp_path)
    (folder / NAMES[2]).unlink()
    assert_loaded(load_archives(at(mirrors.url("good")), tmp_path))
    assert mirrors.requests == [f"/good/{NAMES[2]}"]


@pytest.mark.parametrize("kind", ["altered", "lost", "cut", "anew"])
def test_the_next_mirror_is_used_after_one_that_has_not_the_published_file(
    kind: str, tmp_path: Path, mirrors: Mirrors
) -> None:
    assert_loaded(load_archives(at(mirrors.url(kind), mirrors.url("good")), tmp_path))
    assert f"/{kind}/{NAMES[0]}" in mirrors.requests
    assert on_disk(tmp_path / "tiny") == PUBLISHED


def test_the_next_mirror_is_used_after_one_that_is_down(tmp_path: Path, mirrors: Mirrors) -> None:
    assert_loaded(load_archives(at(*closed_ports(1), mirrors.url("good")), tmp_path))
    assert on_disk(tmp_path / "tiny") == PUBLISHED


def test_the_next_mirror_is_used_after_one_that_never_answers(
    tmp_path: Path, mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives_module, "TIMEOUT", 0.1)
    folder = fill(tmp_path)
    (folder / NAMES[1]).unlink()
    started = time.monotonic()
    assert_loaded(load_archives(at(mirrors.url("silent"), mirrors.url("good")), tmp_path))
    assert time.monotonic() - started < 5


def test_mirrors_are_tried_in_order(tmp_path: Path, mirrors: Mirrors) -> None:
    load_archives(at(mirrors.url("good"), mirrors.url("altered")), tmp_path)
    assert all(path.startswith("/good/") for path in mirrors.requests)


def test_an_archive_is_not_unpacked_on_its_way(tmp_path: Path, mirrors: Mirrors) -> None:
    assert_loaded(load_archives(at(mirrors.url("eager")), tmp_path))
    assert on_disk(tmp_path / "tiny") == PUBLISHED


def test_without_network_every_mirror_and_the_folder_are_named_in_few_words(tmp_path: Path) -> None:
    urls = closed_ports(3)
    message = refusal(at(*urls), tmp_path)
    for url in urls:
        assert url.removeprefix("http://").rstrip("/") in message
    assert message.count("connection refused") == 3
    assert f"put {NAMES[0]} into {tmp_path / 'tiny'} by hand" in message
    assert FILE[NAMES[0]].sha256 not in message
    assert len(message) - 2 * len(str(tmp_path)) < 300
    assert on_disk(tmp_path / "tiny") == {}


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("lost", "HTTP 404"),
        ("silent", "no answer within 0.1 s"),
        ("stuck", "no answer within 0.1 s"),
        ("cut", "connection broken off"),
        ("rude", "connection broken off"),
    ],
)
def test_the_reason_of_a_mirror_is_said_in_few_words(
    kind: str, why: str, tmp_path: Path, mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives_module, "TIMEOUT", 0.1)
    message = refusal(at(mirrors.url(kind)), tmp_path)
    assert f"(127.0.0.1:{mirrors.server.server_address[1]}: {why})" in message
    assert on_disk(tmp_path / "tiny") == {}


def test_a_mirror_whose_name_nobody_knows_is_said_in_few_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    message = refusal(at("http://mirror.invalid/"), tmp_path)
    assert "(mirror.invalid: name not resolved)" in message


def test_a_disk_that_is_full_is_not_blamed_on_the_mirror(
    tmp_path: Path, mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(HTTPDownloader, "__call__", full)
    with pytest.raises(DataError) as caught:
        load_archives(at(mirrors.url("good")), tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'tiny' / NAMES[0]}: No space left on device; free some")
    assert "--data-dir" in message
    assert "127.0.0.1" not in message


def test_a_file_system_without_locks_is_downloaded_to_all_the_same(
    tmp_path: Path, mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(*_: object) -> NoReturn:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", unable)
    assert_loaded(load_archives(at(mirrors.url("good")), tmp_path))
    assert on_disk(tmp_path / "tiny") == PUBLISHED


def test_nothing_is_left_of_a_download_that_only_bad_mirrors_offered(
    tmp_path: Path, mirrors: Mirrors
) -> None:
    message = refusal(at(mirrors.url("altered"), mirrors.url("cut"), mirrors.url("lost")), tmp_path)
    altered = PUBLISHED[NAMES[0]][:-1] + bytes([PUBLISHED[NAMES[0]][-1] ^ 1])
    assert sha256(altered) in message
    assert "404" in message
    assert on_disk(tmp_path / "tiny") == {}


def test_what_a_killed_download_left_does_no_harm(tmp_path: Path, mirrors: Mirrors) -> None:
    fill(tmp_path, {NAMES[0] + ".part": b"x" * 10_000})
    assert_loaded(load_archives(at(mirrors.url("good")), tmp_path))
    assert on_disk(tmp_path / "tiny") == PUBLISHED


def test_those_who_start_at_once_download_once(tmp_path: Path, mirrors: Mirrors) -> None:
    together = threading.Barrier(4)

    def start() -> tuple[np.ndarray, ...]:
        together.wait()
        return load_archives(at(mirrors.url("slow")), tmp_path)

    with ThreadPoolExecutor(4) as pool:
        for running in [pool.submit(start) for _ in range(4)]:
            assert_loaded(running.result())
    assert sorted(mirrors.requests) == sorted(f"/slow/{name}" for name in NAMES)
    assert on_disk(tmp_path / "tiny") == PUBLISHED


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path, mirrors: Mirrors) -> None:
    (tmp_path / "tiny").write_text("in the way")
    message = refusal(at(mirrors.url("good")), tmp_path)
    assert str(tmp_path / "tiny") in message
    assert "EQPROP_DATA" in message
    assert mirrors.requests == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_progress_bar_shows_on_a_terminal_unless_declined(
    tmp_path: Path, mirrors: Mirrors, monkeypatch: pytest.MonkeyPatch
) -> None:
    for progress in (True, False):
        monkeypatch.setattr(sys, "stderr", Terminal())
        load_archives(at(mirrors.url("good")), tmp_path / str(progress), progress=progress)
        assert ("100%" in sys.stderr.getvalue()) is progress  # pyright: ignore[reportAttributeAccessIssue]


def test_nothing_is_printed_where_there_is_no_terminal(
    tmp_path: Path, mirrors: Mirrors, capfd: pytest.CaptureFixture[str]
) -> None:
    load_archives(at(mirrors.url("good")), tmp_path)
    assert capfd.readouterr() == ("", "")


# Files that are there


@pytest.mark.parametrize("archives", [SET, SET_WITH_CONTENTS])
def test_a_truncated_file_is_refused_each_time_and_left_alone(
    archives: ArchiveSet, tmp_path: Path, mirrors: Mirrors
) -> None:
    published = PUBLISHED[NAMES[0]]
    bad = PUBLISHED | {NAMES[0]: published[:-20]}
    folder = fill(tmp_path, bad)
    for _ in range(2):
        message = refusal(at(mirrors.url("good"), archives=archives), tmp_path)
        assert str(folder / NAMES[0]) in message
        assert f"expected {len(published)} bytes with sha256 {sha256(published)}" in message
        assert f"found {len(published) - 20} bytes with sha256 {sha256(published[:-20])}" in message
        assert "delete it" in message
        assert on_disk(folder) == bad
    assert mirrors.requests == []


@pytest.mark.parametrize("name", NAMES)
def test_each_of_the_four_files_is_checked(name: str, tmp_path: Path) -> None:
    folder = fill(tmp_path, PUBLISHED | {name: ANEW[name]})
    assert str(folder / name) in refusal(SET, tmp_path)


def test_a_bad_file_is_refused_before_another_is_downloaded(
    tmp_path: Path, mirrors: Mirrors
) -> None:
    bad = {NAMES[3]: b"not an archive"}
    folder = fill(tmp_path, bad)
    assert str(folder / NAMES[3]) in refusal(at(mirrors.url("good")), tmp_path)
    assert mirrors.requests == []
    assert on_disk(folder) == bad


def test_a_file_gzipped_anew_is_accepted_if_its_contents_are_the_published_ones(
    tmp_path: Path,
) -> None:
    assert all(ANEW[name] != PUBLISHED[name] for name in NAMES)
    fill(tmp_path, ANEW)
    assert_loaded(load_archives(SET_WITH_CONTENTS, tmp_path))


def test_a_file_gzipped_anew_with_altered_contents_is_refused(tmp_path: Path) -> None:
    altered = CONTENTS[NAMES[1]][:-1] + b"\xff"
    folder = fill(tmp_path, ANEW | {NAMES[1]: gzip.compress(altered)})
    message = refusal(SET_WITH_CONTENTS, tmp_path)
    assert str(folder / NAMES[1]) in message
    assert sha256(CONTENTS[NAMES[1]]) in message
    assert sha256(altered) in message


@pytest.mark.parametrize("damage", ["no gzip", "bad block", "empty"])
def test_what_cannot_be_unpacked_is_refused(damage: str, tmp_path: Path) -> None:
    raw = PUBLISHED[NAMES[0]]
    bad = {"no gzip": b"<html>", "bad block": raw[:10] + b"\xff" * 30, "empty": b""}[damage]
    folder = fill(tmp_path, PUBLISHED | {NAMES[0]: bad})
    assert str(folder / NAMES[0]) in refusal(SET_WITH_CONTENTS, tmp_path)


def test_a_file_that_cannot_be_read_is_refused_and_left_alone(
    tmp_path: Path, mirrors: Mirrors
) -> None:
    folder = fill(tmp_path)
    (folder / NAMES[0]).unlink()
    (folder / NAMES[0]).symlink_to(tmp_path / "nowhere")
    message = refusal(at(mirrors.url("good")), tmp_path)
    assert str(folder / NAMES[0]) in message
    assert "No such file" in message
    assert (folder / NAMES[0]).is_symlink()
    assert len(list(folder.iterdir())) == 4
    assert mirrors.requests == []


def test_a_complete_folder_is_only_read(tmp_path: Path) -> None:
    folder = fill(tmp_path)
    before = folder.stat().st_mtime_ns
    folder.chmod(0o555)
    try:
        assert_loaded(load_archives(SET, tmp_path))
        # Write protection does not bind an administrator: look at what happened, too.
        assert sorted(entry.name for entry in folder.iterdir()) == sorted(NAMES)
        assert folder.stat().st_mtime_ns == before
    finally:
        folder.chmod(0o755)


# Where they lie


def test_the_environment_chooses_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)
    monkeypatch.setenv("EQPROP_DATA", str(tmp_path))
    assert default_data_dir() == tmp_path
    assert_loaded(load_archives(SET))


def test_the_data_folder_is_a_cache_of_the_user_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("EQPROP_DATA", raising=False)
    by_default = default_data_dir()
    assert "eqprop" in by_default.parts
    assert Path.home() in by_default.parents or "XDG_CACHE_HOME" in os.environ
    monkeypatch.setenv("EQPROP_DATA", "")
    assert default_data_dir() == by_default


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("EQPROP_DATA", "~")
    assert_loaded(load_archives(SET))
    assert_loaded(load_archives(SET, "~"))


UNPACKED = {name.removesuffix(".gz"): data for name, data in CONTENTS.items()}
TORCHVISION = dataclasses.replace(SET, torchvision="TINY/raw")


def fill_as_torchvision(data_dir: Path, files: dict[str, bytes]) -> Path:
    folder = data_dir / "TINY" / "raw"
    folder.mkdir(parents=True)
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    return folder


@pytest.mark.parametrize("files", [PUBLISHED, PUBLISHED | UNPACKED], ids=["packed", "both"])
def test_archives_that_torchvision_has_downloaded_are_found(
    files: dict[str, bytes], tmp_path: Path, mirrors: Mirrors, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fill_as_torchvision(tmp_path, files)
    assert archives_module.at_hand(TORCHVISION, tmp_path)
    assert_loaded(load_archives(at(mirrors.url("good"), archives=TORCHVISION), tmp_path))
    assert mirrors.requests == []
    assert on_disk(folder) == files
    assert not (tmp_path / "tiny").exists()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("torchvision", [False, True], ids=["ours", "torchvision"])
def test_unpacked_files_are_found_where_the_hash_of_their_contents_is_published(
    torchvision: bool, tmp_path: Path, mirrors: Mirrors
) -> None:
    (fill_as_torchvision if torchvision else fill)(tmp_path, UNPACKED)
    archives = dataclasses.replace(SET_WITH_CONTENTS, torchvision="TINY/raw")
    assert archives_module.at_hand(archives, tmp_path)
    assert_loaded(load_archives(at(mirrors.url("good"), archives=archives), tmp_path))
    assert mirrors.requests == []


def test_an_unpacked_file_that_was_altered_is_refused(tmp_path: Path) -> None:
    name = NAMES[1].removesuffix(".gz")
    folder = fill(tmp_path, UNPACKED | {name: UNPACKED[name][:-1] + b"\xff"})
    message = refusal(SET_WITH_CONTENTS, tmp_path)
    assert str(folder / name) in message
    assert f"expected contents with sha256 {sha256(UNPACKED[name])}" in message
    assert "gzip" not in message


def test_unpacked_files_that_nothing_is_known_of_are_left_aside_in_words(
    tmp_path: Path, mirrors: Mirrors, capsys: pytest.CaptureFixture[str]
) -> None:
    # What a network would silently learn from if they were taken.
    altered = {name: data[:-1] + b"\xff" for name, data in UNPACKED.items()}
    folder = fill_as_torchvision(tmp_path, altered)
    assert not archives_module.at_hand(TORCHVISION, tmp_path)
    assert_loaded(load_archives(at(mirrors.url("good"), archives=TORCHVISION), tmp_path))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(folder / NAMES[0].removesuffix(".gz")) in said
    assert NAMES[0] in said
    assert on_disk(folder) == altered


def test_our_own_folder_comes_before_that_of_torchvision(tmp_path: Path) -> None:
    fill_as_torchvision(tmp_path, dict.fromkeys(NAMES, b"not this"))
    fill(tmp_path)
    assert_loaded(load_archives(TORCHVISION, tmp_path))


@pytest.mark.skipif(not MNIST.is_dir(), reason=f"needs MNIST in {MNIST}")
@pytest.mark.parametrize("packed", [False, True], ids=["unpacked", "packed"])
def test_mnist_as_torchvision_lays_it_out_is_found(packed: bool, tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in NAMES:
        raw = (MNIST / name).read_bytes()
        (folder / (name if packed else name.removesuffix(".gz"))).write_bytes(
            raw if packed else gzip.decompress(raw)
        )
    images, _, _, labels = load_archives(ARCHIVES["mnist"], tmp_path)
    assert (images.shape, labels.shape) == ((60000, 28, 28), (10000,))
    assert not (tmp_path / "mnist").exists()


@pytest.mark.parametrize(
    ("name", "folder"),
    [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")],
)
def test_the_published_sets_know_where_torchvision_puts_them(name: str, folder: str) -> None:
    assert ARCHIVES[name].torchvision == f"{folder}/raw"


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "kmnist"])
def test_the_published_sets_list_images_and_labels_training_first(name: str) -> None:
    published = ARCHIVES[name]
    assert published.name == name
    assert tuple(file.name for file in published.files) == NAMES
    assert all(len(bytes.fromhex(file.sha256)) == 32 for file in published.files)


# IDX


@given(st.lists(st.integers(0, 4), max_size=4).map(tuple))
def test_idx_of_any_shape_is_read_back(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int), dtype=np.uint8).reshape(shape)
    found = parse_idx(idx(array), "a file")
    assert found.shape == shape
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("contents", "found"),
    [
        (b"", "nothing"),
        (b"\0\0\x08", "00 00 08"),
        (b"\1\0\x08\1\0\0\0\1x", "01 00 08 01"),
        (b"\0\1\x08\1\0\0\0\1x", "00 01 08 01"),
        (b"\0\0\x0d\1\0\0\0\1wxyz", "00 00 0d 01"),
        (b"\0\0\x08\2\0\0\0\1", "expected 12 bytes of it, found 8"),
        (b"\0\0\x08\1\0\0\0\2x", "expected 10 bytes for the dimensions 2 in its header, found 9"),
        (b"\0\0\x08\1\0\0\0\2xyz", "found 11"),
        # 2^32 times 2^32 is 0 in 64 bits.
        (b"\0\0\x08\4" + b"\0\1\0\0" * 4, "found 20"),
    ],
)
def test_what_is_no_idx_file_is_refused(contents: bytes, found: str) -> None:
    with pytest.raises(DataError, match="a file") as caught:
        parse_idx(contents, "a file")
    assert "expected" in str(caught.value)
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_published_file_that_is_no_idx_file_is_named(tmp_path: Path) -> None:
    raw = gzip.compress(b"something else")
    folder = fill(tmp_path, PUBLISHED | {NAMES[0]: raw})
    other = ArchiveFile(NAMES[0], len(raw), sha256(raw))
    archives = dataclasses.replace(SET, files=(other, *SET.files[1:]))
    assert str(folder / NAMES[0]) in refusal(archives, tmp_path)
