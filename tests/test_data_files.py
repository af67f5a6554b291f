"""Data files: the real formats, whole and damaged, written by the tests themselves."""

from __future__ import annotations

import gzip
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde import data


def pixels(*shape, seed=0):
    return torch.randint(
        256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


# IDX


def idx_bytes(values, kind=0x08):
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, kind, values.ndim, *values.shape)
    return header + values.numpy().tobytes()


@pytest.fixture
def mnist(tmp_path):
    content = {
        "train-images-idx3-ubyte": pixels(6, 5, 4),
        "train-labels-idx1-ubyte": torch.tensor([0, 1, 2, 0, 1, 2], dtype=torch.uint8),
        "t10k-images-idx3-ubyte": pixels(3, 5, 4, seed=1),
        "t10k-labels-idx1-ubyte": torch.tensor([2, 1, 0], dtype=torch.uint8),
    }
    for name, values in content.items():
        (tmp_path / name).write_bytes(idx_bytes(values))
    return tmp_path, content


@pytest.mark.parametrize("compressed", [False, True])
def test_idx_reads_what_was_written(mnist, compressed):
    folder, content = mnist
    if compressed:
        for path in list(folder.iterdir()):
            (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    dataset = data.idx(folder, classes=("a", "b", "c"))
    assert torch.equal(dataset.train, content["train-images-idx3-ubyte"][:, None])
    assert torch.equal(dataset.test, content["t10k-images-idx3-ubyte"][:, None])
    assert dataset.train_labels is not None
    assert dataset.train_labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert dataset.test_labels is not None
    assert dataset.test_labels.tolist() == [2, 1, 0]
    assert (dataset.levels, dataset.classes) == (256, ("a", "b", "c"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: whole[:-1], "119 bytes of data where its header declares .*120 bytes"),
        (lambda whole: whole + b"\0", "more bytes of data .*120 bytes"),
        (lambda whole: whole[:10], "cut short within its header"),
        (lambda whole: b"", "begins with the bytes"),
        (lambda whole: b"\x89PNG" + whole[4:], "begins with the bytes 89 50 4e 47"),
        (lambda whole: idx_bytes(pixels(6, 20)), "00 00 08 02, not with 00 00 08 03"),
        (lambda whole: b"\0\0\x0d\x03" + whole[4:], "00 00 0d 03, not with 00 00 08 03"),
        (lambda whole: idx_bytes(pixels(5, 5, 4)), "train_labels has 6 labels for 5"),
    ],
)
def test_damaged_idx_files_are_refused(mnist, damage, message):
    path = mnist[0] / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        data.idx(mnist[0])


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-12],
        lambda whole: b"not gzip at all",
        lambda whole: whole[:12] + bytes([whole[12] ^ 0xFF]) + whole[13:],
    ],
)
def test_damaged_gzip_files_are_refused_by_name(mnist, damage):
    path = mnist[0] / "t10k-images-idx3-ubyte"
    compressed = gzip.compress(path.read_bytes())
    path.unlink()
    (mnist[0] / f"{path.name}.gz").write_bytes(damage(compressed))
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz is damaged"):
        data.idx(mnist[0])


def test_labels_without_a_class_are_refused_by_file_and_row(mnist):
    with pytest.raises(
        ValueError, match=r"train-labels-idx1-ubyte: row 3 has the label 2, .* 0\.\.1"
    ):
        data.idx(mnist[0], classes=("a", "b"))


def test_missing_idx_files_are_named(mnist):
    (mnist[0] / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"t10k-labels-idx1-ubyte or .*\.gz"):
        data.idx(mnist[0])


# NumPy files


def test_npy_maps_samples_without_touching_the_file(tmp_path):
    x = pixels(8, 3, 4, 4)
    np.save(tmp_path / "faces.npy", x.numpy())
    dataset = data.npy(tmp_path / "faces.npy", levels=256)
    assert torch.equal(dataset.train, x)
    assert (dataset.name, len(dataset.test)) == ("faces", 0)
    dataset.train.zero_()
    assert torch.equal(data.npy(tmp_path / "faces.npy", levels=256).train, x)


@pytest.mark.parametrize(
    ("stored", "levels", "dtype"),
    [("<f8", None, torch.float32), (">f4", None, torch.float32), (">u2", 4096, torch.int64)],
)
def test_npy_converts_other_dtypes(tmp_path, stored, levels, dtype):
    x = np.arange(12).reshape(6, 2)
    np.save(tmp_path / "x.npy", x.astype(stored))
    np.save(tmp_path / "y.npy", x[:2].astype(stored))
    dataset = data.npy(tmp_path / "x.npy", tmp_path / "y.npy", levels=levels)
    assert dataset.train.dtype == dataset.test.dtype == dtype
    assert dataset.train.tolist() == x.tolist()
    assert dataset.test.tolist() == x[:2].tolist()


def test_npz_reads_named_arrays(tmp_path):
    x, y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 2, 0, 1, 2], dtype=np.int32)
    path = tmp_path / "all.npz"
    np.savez(path, train=x, train_labels=y)
    dataset = data.npz(path)
    assert len(dataset.test) == 0
    assert dataset.num_classes == 3
    np.savez_compressed(path, train=x, test=x[:2], train_labels=y, test_labels=y[:2])
    dataset = data.npz(path, classes=("a", "b", "c"))
    assert dataset.test_labels is not None
    assert (dataset.test.tolist(), dataset.test_labels.tolist()) == (x[:2].tolist(), [0, 1])


def test_numpy_files_that_cannot_be_used_are_refused(tmp_path):
    npy, npz = tmp_path / "a.npy", tmp_path / "a.npz"
    np.save(npy, np.array([[{}]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.npy cannot be read.*pickle, which runs code"):
        data.npy(npy)
    np.save(npy, np.array([["a"]]))
    with pytest.raises(ValueError, match=r"a\.npy cannot be read.*<U1"):
        data.npy(npy)
    np.save(npy, np.zeros((100, 2)))
    npy.write_bytes(npy.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"a\.npy cannot be read"):
        data.npy(npy)
    np.savez(npz, train=np.array([[{}]], dtype=object))
    with pytest.raises(ValueError, match=r"a\.npz cannot be read.*pickle, which runs code"):
        data.npz(npz)
    np.savez(npz, images=np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"a\.npz holds the arrays \['images'\]: name them train"):
        data.npz(npz)
    with pytest.raises(ValueError, match=r"a\.npz cannot be read.*magic string"):
        data.npy(npz)
    with pytest.raises(ValueError, match=r"a\.npy cannot be read.*zip"):
        data.npz(npy)
    npz.write_bytes(npz.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"a\.npz cannot be read"):
        data.npz(npz)
    with pytest.raises(FileNotFoundError):
        data.npy(tmp_path / "missing.npy")


# Folders of images


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.numpy()).save(path)


def test_images_of_the_right_size_are_kept_exactly(tmp_path):
    cat, dog, cat2 = pixels(8, 8, 3, seed=1), pixels(8, 8, 3, seed=2), pixels(8, 8, 3, seed=3)
    save(tmp_path / "train" / "dog" / "1.png", dog)
    save(tmp_path / "train" / "cat" / "deep" / "1.PNG", cat)
    save(tmp_path / "train" / "cat" / "2.bmp", cat2)
    save(tmp_path / "test" / "dog" / "3.png", cat)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    dataset = data.images(tmp_path / "train", tmp_path / "test", size=8)
    assert torch.equal(dataset.train, torch.stack([cat2, cat, dog]).permute(0, 3, 1, 2))
    assert dataset.classes == ("cat", "dog")
    assert dataset.train_labels is not None
    assert dataset.train_labels.tolist() == [0, 0, 1]
    assert dataset.test_labels is not None
    assert dataset.test_labels.tolist() == [1]


def test_images_are_cut_to_the_central_square_and_converted(tmp_path):
    wide = torch.zeros(4, 12, 3, dtype=torch.uint8)
    wide[:, 4:8] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    save(tmp_path / "wide.png", wide)
    save(tmp_path / "tall.png", wide.transpose(0, 1).contiguous())
    colour = data.images(tmp_path, size=2)
    assert torch.equal(colour.train[:, 0], torch.full((2, 2, 2), 255, dtype=torch.uint8))
    assert (colour.train[:, 1:] == 0).all()
    grey = data.images(tmp_path, size=2, channels=1)
    assert (grey.train == 76).all()  # the luma of red, 0.299 * 255
    assert (grey.train_labels, grey.num_classes, grey.shape) == (None, 0, (1, 2, 2))


def test_a_bitmap_may_lack_the_header_of_its_file(tmp_path):
    picture = pixels(4, 4, 3)
    Image.fromarray(picture.numpy()).save(tmp_path / "a.bmp", format="DIB")
    assert torch.equal(data.images(tmp_path, size=4).train[0], picture.permute(2, 0, 1))


def test_an_image_of_another_format_is_to_be_converted(tmp_path):
    Image.fromarray(pixels(4, 4, 3).numpy()).save(tmp_path / "a.jpg", format="PCX")
    with pytest.raises(ValueError, match=r"a\.jpg .*none of BMP, .*, TIFF, WEBP: convert it"):
        data.images(tmp_path, size=4)


def test_a_size_may_be_an_integer_of_numpy(tmp_path):
    save(tmp_path / "a.png", pixels(4, 4, 3))
    cache, size = tmp_path / "cache", np.int64(4)
    first = data.images(tmp_path, size=4, cache=cache).train
    assert torch.equal(data.images(tmp_path, size=size, cache=cache).train, first)
    assert len(list(cache.iterdir())) == 1


def test_images_are_turned_upright(tmp_path):
    picture = pixels(4, 4, 3)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(picture.numpy()).save(tmp_path / "a.png", exif=exif)
    upright = data.images(tmp_path, size=4).train[0]
    assert torch.equal(upright, picture.rot90(2, (0, 1)).permute(2, 0, 1))


def test_damaged_images_raise_or_are_skipped_with_a_warning(tmp_path, monkeypatch):
    save(tmp_path / "c.png", pixels(8, 8, 3))
    whole = (tmp_path / "c.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.png").write_bytes(b"not an image")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "d.png")
    with pytest.raises(ValueError, match=r'a\.png cannot be read .*on_error="skip"'):
        data.images(tmp_path, size=8)
    with pytest.warns(UserWarning, match=r"skipped 3 of 4 .* first: a\.png, b\.png, d\.png"):
        dataset = data.images(tmp_path, size=8, on_error="skip")
    assert torch.equal(dataset.train, pixels(8, 8, 3).permute(2, 0, 1)[None])
    with monkeypatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
        with pytest.raises(ValueError, match=r"cannot be read .*decompression bomb"):
            data.images(tmp_path, size=8)
    (tmp_path / "c.png").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 4 images"):
        data.images(tmp_path, size=8, on_error="skip")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_images_of_every_mode_are_read(tmp_path, mode):
    picture = 255 * (pixels(8, 8) > 127).to(torch.uint8)  # black and white are in all of them
    Image.fromarray(picture.numpy()).convert(mode).save(
        tmp_path / "a.tif", compression=None if mode == "CMYK" else "raw"
    )
    assert torch.equal(data.images(tmp_path, size=8, channels=1).train[0, 0], picture)
    assert torch.equal(data.images(tmp_path, size=8).train[0, 2], picture)


def png(depth, colour, row):
    """Return a PNG file of one row of pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, depth, colour, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def test_grey_of_more_than_8_bits_is_refused_with_alpha_too(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(8, 4, b"\x12\xff"))
    assert data.images(tmp_path, size=1, channels=1).train.flatten().tolist() == [0x12]
    for colour, row in ((0, b"\x12\x34"), (4, b"\x12\x34\xff\xff")):
        path.write_bytes(png(16, colour, row))
        with pytest.raises(ValueError, match=r"a\.png cannot be read .*more than 8 bits"):
            data.images(tmp_path, size=1, channels=1)
    path.write_bytes(png(16, 6, b"\x12\x34" * 4))
    assert data.images(tmp_path, size=1).train.flatten().tolist() == [0x12] * 3


def test_folders_of_programs_are_no_classes(tmp_path):
    root = tmp_path / ".data"  # the root may be hidden
    for name in ("cat/1", "cat/.ipynb_checkpoints/1", ".ipynb_checkpoints/1", "__MACOSX/cat/1"):
        save(root / f"{name}.png", pixels(4, 4, 3))
    dataset = data.images(root, size=4)
    assert (len(dataset.train), dataset.classes) == (1, ("cat",))


@pytest.mark.parametrize(
    "content",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n",  # a program
        b"P6 8 8 70000\n" + bytes(192),
        b"P3 2 2 255\n1 2 x",
        b"P6 8 8 255\n" + bytes(191),
    ],
)
def test_what_only_looks_like_an_image_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png cannot be read \((?!.*Ghostscript)"):
        data.images(tmp_path, size=8)


def test_image_folders_that_cannot_be_used_are_refused(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="missing is no folder"):
        data.images(tmp_path / "missing", size=8)
    with pytest.raises(FileNotFoundError, match="holds no images"):
        data.images(tmp_path, size=8)
    for size in (0, 2.5, "8"):
        with pytest.raises(ValueError, match=f"size={size!r} must be a positive integer"):
            data.images(tmp_path, size=size)
    with pytest.raises(ValueError, match="channels=2 must be 1"):
        data.images(tmp_path, size=4, channels=2)
    with pytest.raises(ValueError, match="on_error='ignore'"):
        data.images(tmp_path, size=4, on_error="ignore")
    save(tmp_path / "train" / "cat" / "1.png", pixels(4, 4, 3))
    save(tmp_path / "test" / "dog" / "1.png", pixels(4, 4, 3))
    save(tmp_path / "flat" / "1.png", pixels(4, 4, 3))
    for test in ("test", "flat"):
        with pytest.raises(ValueError, match="give both the same classes"):
            data.images(tmp_path / "train", tmp_path / test, size=4)
    save(tmp_path / "train" / "loose.png", pixels(4, 4, 3))
    with pytest.raises(ValueError, match=r"loose\.png.* as well as in sub-folders"):
        data.images(tmp_path / "train", size=4)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'scoresde\[data\]'"):
        data.images(tmp_path / "flat", size=4)
