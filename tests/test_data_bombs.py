"""Files that declare more than they hold, or unpack to more than a machine has memory for."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
import zipfile
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest

from scoresde import data
from scoresde.data import checks

ZEROS = 2**24
"""Bytes that a bomb of the tests unpacks to."""


@contextmanager
def little_memory():
    """Fail where what is done takes half as much memory as a bomb would fill."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < ZEROS // 2
    finally:
        tracemalloc.stop()


def idx_file(*shape, values=b""):
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + values


@pytest.fixture
def mnist(tmp_path):
    for part in ("train", "t10k"):
        images, labels = idx_file(2, 4, 4, values=bytes(32)), idx_file(2, values=bytes(2))
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return tmp_path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx_file(2, 4, 4, values=bytes(ZEROS)), r"has more bytes of data .*\(2, 4, 4\), 32 bytes"),
        (idx_file(2**17, 2**7, 2**7, values=bytes(ZEROS)), "declares 2147483648 bytes .*unpack it"),
        (idx_file(*[2**32 - 1] * 3), "declares 79228162458924105385300197375 bytes in a file of "),
    ],
)
def test_a_packed_idx_file_is_read_as_far_as_its_header_says(mnist, content, message):
    (mnist / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    with little_memory(), pytest.raises(ValueError, match=rf"images-idx3-ubyte\.gz {message}"):
        data.idx(mnist)


def test_a_short_idx_file_that_declares_much_is_refused(mnist):
    (mnist / "train-images-idx3-ubyte").write_bytes(idx_file(2**20, 2**10, 2**10))
    with little_memory(), pytest.raises(ValueError, match="declares 1099511627776 bytes in a file"):
        data.idx(mnist)


def test_idx_files_that_compress_well_are_read(mnist):
    shape = (2**10, 2**5, 2**5)  # 2^20 zeros, in about 2^10 bytes
    path = mnist / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx_file(*shape, values=bytes(2**20))))
    labels = gzip.compress(idx_file(shape[0], values=bytes(shape[0])))
    (mnist / "train-labels-idx1-ubyte.gz").write_bytes(labels)
    (mnist / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_file(0, 32, 32)))
    (mnist / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_file(0)))
    dataset = data.idx(mnist)
    assert (dataset.shape, len(dataset.test), int(dataset.train.sum())) == ((1, 32, 32), 0, 0)
    assert path.stat().st_size < 2**20 // 64


def npy_header(shape, descr="<f4"):
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def test_a_packed_array_is_read_if_its_size_is_that_of_data(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", train=np.zeros((2**20, 2), np.float32))
    assert len(data.npz(tmp_path / "a.npz").train) == 2**20
    monkeypatch.setattr(checks, "_SMALL", 2**16)
    with (
        little_memory(),
        pytest.raises(ValueError, match=r"a\.npz declares 8388736 bytes .* with numpy\.savez if"),
    ):
        data.npz(tmp_path / "a.npz")


def test_the_arrays_of_a_packed_file_are_bounded_together(tmp_path, monkeypatch):
    few = np.zeros((2**15, 2), np.uint8)
    np.savez_compressed(tmp_path / "a.npz", train=few, test=few)
    monkeypatch.setattr(checks, "_EXPANSION", 1)
    monkeypatch.setattr(checks, "_SMALL", 2 * few.nbytes)  # either passes, and the headers count
    with pytest.raises(ValueError, match=r"a\.npz declares 131328 bytes"):
        data.npz(tmp_path / "a.npz")


def test_arrays_of_other_names_are_not_unpacked(tmp_path):
    zeros = np.zeros((1, ZEROS), np.uint8)
    np.savez_compressed(tmp_path / "a.npz", train=zeros[:, :1], images=zeros)
    with (
        little_memory(),
        pytest.raises(ValueError, match=r"holds the arrays \['images', 'train'\]"),
    ):
        data.npz(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("packed", "unpacked", "fits"),
    [
        (196_000, 20_000 * 64 * 64, True),  # binary masks, packed 417 times
        (26_000_000, 737_280 * 64 * 64, True),  # more of them, as of dSprites
        (2**20, 2**30 + 1, False),
        (2**24, 2**34, False),  # as far as Deflate goes
    ],
)
def test_a_file_may_unpack_to_what_data_do(tmp_path, packed, unpacked, fits):
    with (tmp_path / "a").open("wb") as file:
        file.truncate(packed)
    with nullcontext() if fits else pytest.raises(ValueError, match="or write it otherwise if"):
        checks.require_expansion(tmp_path / "a", unpacked, "write it otherwise")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (npy_header((10**9, 10**9)), "mmap length is greater"),
        (npy_header((10**20, 2)), "too large"),
        (npy_header((True, 2)), "integer"),
        (npy_header(()), "is no array of samples or labels"),
        (npy_header((-2, 2)), "negative"),
        (npy_header("{" * 1000), ""),
    ],
)
def test_headers_of_arrays_that_make_no_sense_are_refused_by_file(tmp_path, header, message):
    npy, npz = tmp_path / "a.npy", tmp_path / "a.npz"
    npy.write_bytes(header + bytes(16))
    with zipfile.ZipFile(npz, "w") as archive:
        archive.write(npy, "train.npy")
    with pytest.raises(ValueError, match=rf"a\.npy cannot be read \(.*{message}"):
        data.npy(npy)
    with pytest.raises(ValueError, match=r"a\.npz cannot be read \("):
        data.npz(npz)


def test_what_is_no_array_in_an_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("train", "no array")
    with pytest.raises(ValueError, match=r"a\.npz cannot be read \(b'no array' is no array"):
        data.npz(tmp_path / "a.npz")


def test_a_label_out_of_all_bounds_is_refused_and_not_counted_to(tmp_path):
    np.savez(tmp_path / "a.npz", train=np.zeros((2, 2)), train_labels=np.array([0, 2**40]))
    with little_memory(), pytest.raises(ValueError, match=r"a\.npz: .* reach 1099511627776: num"):
        data.npz(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1.0, np.nan]], r"train holds 1 of 2 .* nan at index \(0, 1\)"),
        ([[1.0, 1e300]], r"train holds 1 of 2 .* inf at index \(0, 1\)"),
        ([1.0, 2.0], r"train has shape \(2,\)"),
        (np.zeros((0, 2)), r"train has shape \(0, 2\)"),
    ],
)
def test_what_a_data_set_refuses_is_told_with_its_file(tmp_path, values, message):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(ValueError, match=rf"a\.npy: {message}"):
        data.npy(tmp_path / "a.npy")


def test_what_is_wrong_with_a_test_set_is_not_put_on_the_training_set(tmp_path):
    np.save(tmp_path / "a.npy", [[1.0, 2.0]])
    np.save(tmp_path / "b.npy", [[1.0, np.nan]])
    with pytest.raises(ValueError, match=r"a\.npy and .*b\.npy: test holds 1 of 2"):
        data.npy(tmp_path / "a.npy", tmp_path / "b.npy")
    (tmp_path / "a.csv").write_text("1,2\n")
    (tmp_path / "b.csv").write_text("1,2,3\n")
    with pytest.raises(ValueError, match=r"a\.csv and .*b\.csv: test is .*\(1, 1, 3\)"):
        data.series(tmp_path / "a.csv", tmp_path / "b.csv")
