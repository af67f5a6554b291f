"""Folders of image files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from scoresde.data.checks import require_count
from scoresde.data.dataset import Dataset
from scoresde.data.folders import Reader, read_folder
from scoresde.data.parts import read_parts

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # whatever a file is called


def images(
    train: str | Path,
    test: str | Path | None = None,
    *,
    size: int,
    channels: Literal[1, 3] = 3,
    on_error: Literal["raise", "skip"] = "raise",
    cache: str | Path | None = None,
) -> Dataset:
    """Read the image files of a folder and of all folders in it: shape (channels, size, size).

    An image is turned upright as its EXIF tag says, cut to its central square, resized (Lanczos)
    and converted to grey or RGB; transparency is dropped, and so are the lower 8 bits of colours of
    16; grey of more than 8 bits is refused. Files are taken in the order of their
    paths. Where the files lie in sub-folders, the names of these are the classes. Folders whose
    names begin with a dot, and __MACOSX, are passed over.

    Args:
        train: the folder of the training images.
        test: the folder of the test images. Without one the test set is empty: see `Dataset.split`.
        size: the side of the result, in pixels.
        channels: 1 (grey) or 3 (RGB).
        on_error: what to do with a file that cannot be read: "raise", or "skip" it with a warning
            that says how many were skipped and names the first.
        cache: a folder in which the pixels are kept, N * channels * size^2 bytes, and from which
            they are read where they are used; so a set may be larger than memory, and is decoded
            once. Files that change are decoded anew; what is out of date there can be deleted.

    Raises:
        ImportError: Pillow is not installed.
        FileNotFoundError: a folder is missing or holds no images.
        ValueError: an argument is out of range, an image cannot be read (or none can), images lie
            both in a folder and in its sub-folders, or the test images have other classes.
    """
    size = require_count("size", size)
    if channels not in (1, 3):
        raise ValueError(f"channels={channels} must be 1 (grey) or 3 (RGB)")
    reader = Reader(
        "images",
        _SUFFIXES,
        partial(_read_image, size=size, channels=channels),
        shape=(channels, size, size),
        dtype=torch.uint8,
        settings="central square, Lanczos",
        on_error=on_error,
        cache=cache,
    )
    return read_parts(partial(read_folder, reader=reader), train, test, levels=256)


def _read_image(path: Path, size: int, channels: int) -> Tensor:
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise ImportError("images needs Pillow: pip install 'scoresde[data]'") from error
    try:
        # Pillow knows formats, such as EPS, that other programs run
        with Image.open(path, formats=_FORMATS) as file:
            # Pillow makes 8 bits of the 16 of grey with alpha, and tells by the decoder alone
            if file.mode.startswith(("I", "F")) or "LA;16" in str(file.tile):
                raise ValueError("it is grey of more than 8 bits: convert it to 8")
            image = ImageOps.exif_transpose(file).convert("RGB" if channels == 3 else "L")
    except UnidentifiedImageError as error:
        raise ValueError(f"it is none of {', '.join(_FORMATS)}: convert it to one") from error
    except Exception as error:  # a damaged file makes decoders raise anything
        raise ValueError(str(error)) from error
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    resized = square.resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(resized)).view(size, size, channels).permute(2, 0, 1)
