"""CIFAR-10 in both of its forms, whole, damaged and malicious, written by the tests themselves."""

from __future__ import annotations

import io
import os
import pickle
import struct

import numpy as np
import pytest
import torch

from scoresde import data

NAMES = tuple(f"data_batch_{k}" for k in range(1, 6))
CLASSES = tuple("abcdefghij")


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 and NumPy 1 wrote: text is bytes, and arrays have their old name."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_bytes(self, text):
        self.write(b"T" + struct.pack("<i", len(text)) + text)
        self.memoize(text)

    def save_str(self, text):
        self.save_bytes(text.encode("latin1"))

    dispatch[bytes], dispatch[str] = save_bytes, save_str


def python2(value):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")


@pytest.fixture
def records():
    generator = torch.Generator().manual_seed(0)
    found = torch.randint(256, (60, 3073), dtype=torch.uint8, generator=generator)
    found[:, 0] %= 10
    return found


@pytest.fixture
def binary(tmp_path, records):
    for name, part in zip((*NAMES, "test_batch"), records.split(10), strict=True):
        (tmp_path / f"{name}.bin").write_bytes(part.numpy().tobytes())
    (tmp_path / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n\n")
    return tmp_path


@pytest.fixture
def pickled(tmp_path, records):
    for name, part in zip((*NAMES, "test_batch"), records.split(10), strict=True):
        batch = {
            b"batch_label": name.encode(),
            b"labels": part[:, 0].tolist(),
            b"data": part[:, 1:].numpy(),
            b"filenames": [b"%d.png" % k for k in range(10)],
        }
        (tmp_path / name).write_bytes(python2(batch))
    meta = {"num_cases_per_batch": 10, "label_names": list(CLASSES), "num_vis": 3072}
    (tmp_path / "batches.meta").write_bytes(python2(meta))
    return tmp_path


@pytest.mark.parametrize("form", ["binary", "pickled"])
def test_cifar10_reads_labels_and_planes(request, form, records):
    dataset = data.cifar10(request.getfixturevalue(form))
    assert torch.equal(dataset.train.flatten(1), records[:50, 1:])
    assert torch.equal(dataset.test[:, 2, 0, 1], records[50:, 1 + 2 * 1024 + 1])
    assert torch.equal(dataset.train_labels, records[:50, 0].long())
    assert torch.equal(dataset.test_labels, records[50:, 0].long())
    assert (dataset.shape, dataset.classes) == ((3, 32, 32), CLASSES)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_batches_that_python_3_pickled_anew_are_refused(pickled, records, protocol):
    batch = {b"labels": records[:10, 0].tolist(), b"data": records[:10, 1:].numpy()}
    (pickled / "data_batch_1").write_bytes(pickle.dumps(batch, protocol))
    with pytest.raises(ValueError, match=r"data_batch_1 cannot be read \(.*which no batch"):
        data.cifar10(pickled)


def test_arrays_of_columns_are_read(pickled, records):
    part = records[:10]
    batch = {b"labels": part[:, 0].tolist(), b"data": np.asfortranarray(part[:, 1:].numpy())}
    (pickled / "data_batch_1").write_bytes(python2(batch))
    assert torch.equal(data.cifar10(pickled).train[:10].flatten(1), part[:, 1:])


class Pointers:
    """An array of objects that says it holds none, so that NumPy takes its bytes for pointers."""

    def __reduce__(self):
        kind = PlainObjects()
        return (*np.zeros(0).__reduce__()[:2], (1, (1, 2), kind, False, b"\x41" * 16))


class PlainObjects:
    def __reduce__(self):
        return np.dtype, ("O8", False, True), (3, "|", None, None, None, -1, -1, 0)


def test_no_state_reaches_numpy(pickled):
    (pickled / "data_batch_1").write_bytes(python2({b"labels": [0], b"data": Pointers()}))
    with pytest.raises(ValueError, match="data_batch_1 does not hold data"):
        data.cifar10(pickled)


def test_damaged_binary_files_are_refused(binary):
    path = binary / "data_batch_3.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"data_batch_3\.bin has 30729 bytes"):
        data.cifar10(binary)
    path.write_bytes(whole[:3073] + b"\x0a" + whole[3074:])
    with pytest.raises(ValueError, match=r"data_batch_3\.bin: row 2 has the label 10, .* 0\.\.9"):
        data.cifar10(binary)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_3\.bin"):
        data.cifar10(binary)


class Runs:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
def test_pickles_that_run_code_are_refused_by_the_global_that_they_ask_for(pickled, name, tmp_path):
    (pickled / name).write_bytes(python2({b"data": Runs(tmp_path / "ran")}))
    with pytest.raises(ValueError, match=rf"{name} cannot be read \(it asks for \w+\.mkdir, which"):
        data.cifar10(pickled)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(U\x04truetR.",
        b"cbuiltins\neval\n(U\x011tR.",
        b"cnumpy\nload\n(U\x01xtR.",
        b"cnumpy\nndarray.tofile\n.",  # a name with a dot reaches into an object
        b"ccopyreg\n_reconstructor\n.",
    ],
)
def test_no_other_global_is_known(pickled, content):
    (pickled / "batches.meta").write_bytes(content)
    asked = content[1:].split(b"\n")[:2]
    with pytest.raises(ValueError, match=rf"asks for {asked[0].decode()}\.{asked[1].decode()}, "):
        data.cifar10(pickled)


MANY = struct.pack("<I", 2**31 - 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02}r" + MANY + b".", "remembers an object 2147483647 after 0"),
        (b"\x80\x02}q\x01q\x04.", "remembers an object 4 after 1"),
        (b"\x80\x02T" + MANY + b"x.", "only 2 remain"),
        (b"\x80\x04\x95" + bytes(7) + b"\x7f}.", "it holds FRAME, which no batch"),
        (b"\x80\x02\x8e" + bytes(7) + b"\x7f.", r"it holds BINBYTES8|bytes in a bytes8"),
        (b"\x80\x02}(]2e.", "it holds DUP"),
        (pickle.dumps({}, protocol=4), "it holds FRAME|it holds EMPTY_DICT|it holds MEMOIZE"),
        # hashed as a key, 60 tuples of the former one twice would take 2^60 steps
        (b"\x80\x02})q\x01h\x01h\x01\x86q\x02h\x02h\x02\x86Ns.", "uses a tuple twice"),
        (b"\x80\x02})\x85\x80\x02q\x01h\x01\x86Ns.", "uses a tuple twice"),
        # hashed as a key, it would fill the stack
        (b"})" + b"\x85" * 10**6 + b"Ns.", "more than 100 tuples"),
        (b"\x80\x02})\x85q\x01q\x02h\x02\x86Ns.", "uses a tuple twice"),
    ],
)
def test_pickles_that_ask_for_much_memory_or_time_are_refused(pickled, content, message):
    (pickled / "data_batch_1").write_bytes(content)
    with pytest.raises(ValueError, match=rf"data_batch_1 cannot be read \(.*{message}"):
        data.cifar10(pickled)


def batch(**changes):
    values = {b"labels": [0] * 4, b"data": np.zeros((4, 3072), np.uint8)}
    return values | {name.encode(): value for name, value in changes.items()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (python2(batch())[:-500], "cannot be read"),
        (b"", "cannot be read"),
        (b"not a pickle", "cannot be read"),
        (python2([1, 2]), "holds a list, not a dict"),
        (python2(batch(data=np.zeros((4, 3071), np.uint8))), r"bytes of shape \(N, 3072\)"),
        (python2(batch(data=np.zeros((4, 3072)))), "does not hold data"),
        (python2(batch(data=[0])), "does not hold data"),
        (python2(batch(data=np.zeros((4, 3072), object))), "does not hold data"),
        (python2(batch(data=np.zeros((4, 3072), np.int8))), "does not hold data"),
        (python2(batch(data=np.zeros((2, 2, 3072), np.uint8))), "does not hold data"),
        (python2(batch(labels=[0, 1, 2, 10**30])), "does not hold data"),
        (python2(batch(labels=[0] * 5)), "does not hold data"),
        (python2(batch(labels=[0, 1, 2, None])), "does not hold data"),
        (python2(batch(labels=[0, 1, -1, 2])), "row 3 has the label -1"),
        (python2({}), "does not hold data"),
    ],
)
def test_damaged_pickles_are_refused(pickled, content, message):
    (pickled / "data_batch_4").write_bytes(content)
    with pytest.raises(ValueError, match=rf"data_batch_4:? .*{message}|data_batch_4: {message}"):
        data.cifar10(pickled)


def test_pickled_names_that_are_no_text_or_missing_are_refused(pickled):
    (pickled / "batches.meta").write_bytes(python2({"label_names": [1]}))
    with pytest.raises(ValueError, match=r"batches\.meta does not hold label_names"):
        data.cifar10(pickled)
    for count in (9, 11):
        (pickled / "batches.meta").write_bytes(
            python2({"label_names": list("abcdefghijk"[:count])})
        )
        with pytest.raises(ValueError, match=rf"batches\.meta of .* names {count} classes, not 10"):
            data.cifar10(pickled)
    (pickled / "batches.meta").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no batches\.meta"):
        data.cifar10(pickled)
