"""Folders of image files."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from scoresde.data.dataset import Dataset

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error)  # what decoders raise


def images(
    train: str | Path,
    test: str | Path | None = None,
    *,
    size: int,
    channels: Literal[1, 3] = 3,
    on_error: Literal["raise", "skip"] = "raise",
) -> Dataset:
    """Read the image files of a folder and of all folders in it: shape (channels, size, size).

    An image is turned upright as its EXIF tag says, cut to its central square, resized (Lanczos)
    and converted to grey or RGB; transparency is dropped. Files are taken in the order of their
    paths. Where the files lie in sub-folders, the names of these are the classes.

    Args:
        train: the folder of the training images.
        test: the folder of the test images. Without one the test set is empty: see `Dataset.split`.
        size: the side of the result, in pixels.
        channels: 1 (grey) or 3 (RGB).
        on_error: what to do with a file that cannot be read: "raise", or "skip" it with a warning
            that says how many were skipped and names the first.

    Raises:
        ImportError: Pillow is not installed.
        FileNotFoundError: a folder is missing or holds no images.
        ValueError: an argument is out of range, an image cannot be read (or none can), images lie
            both in a folder and in its sub-folders, or the test images have other classes.
    """
    if size < 1 or channels not in (1, 3) or on_error not in ("raise", "skip"):
        raise ValueError(
            f"size={size}, channels={channels}, on_error={on_error!r}: give a positive size, 1 or "
            '3 channels, and "raise" or "skip"'
        )
    skip = on_error == "skip"
    pixels, names = _read_folder(Path(train), size, channels, skip)
    if test is None:
        test_pixels, test_names = pixels[:0], []
    else:
        test_pixels, test_names = _read_folder(Path(test), size, channels, skip)
    classes, test_classes = sorted(set(names)), sorted(set(test_names))
    same = bool(classes) == bool(test_classes) and set(test_classes) <= set(classes)
    if test is not None and not same:
        raise ValueError(
            f"the sub-folders of {test} name the classes {test_classes}, those of {train} name "
            f"{classes}: give both the same classes"
        )
    return Dataset(
        pixels,
        test_pixels,
        torch.tensor([classes.index(name) for name in names]) if classes else None,
        torch.tensor([classes.index(name) for name in test_names]).long() if classes else None,
        levels=256,
        name=Path(train).resolve().name,
        classes=tuple(classes),
    )


def _read_folder(root: Path, size: int, channels: int, skip: bool) -> tuple[Tensor, list[str]]:
    """Return the images (N, C, size, size) and the class name of each, or no names."""
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        state = f"holds no images ({' '.join(_SUFFIXES)})" if root.is_dir() else "is no folder"
        raise FileNotFoundError(f"{root} {state}")
    nested = [path.parent != root for path in paths]
    if any(nested) and not all(nested):
        raise ValueError(
            f"{root} holds images itself ({paths[nested.index(False)].name}) as well as in "
            "sub-folders, which name the classes: move them into one"
        )
    pixels = torch.empty(len(paths), channels, size, size, dtype=torch.uint8)
    kept: list[Path] = []
    skipped: list[Path] = []
    for path in paths:
        try:
            pixels[len(kept)] = _read_image(path, size, channels)
            kept.append(path)
        except _DAMAGE as error:
            if not skip:
                raise ValueError(
                    f'{path} cannot be read ({error}): repair or remove it, or pass on_error="skip"'
                ) from error
            skipped.append(path)
    if not kept:
        raise ValueError(f"none of the {len(paths)} images in {root} can be read")
    if skipped:
        first = ", ".join(str(path.relative_to(root)) for path in skipped[:3])
        warnings.warn(
            f"skipped {len(skipped)} of {len(paths)} images in {root} that cannot be read; the "
            f"first: {first}",
            stacklevel=3,
        )
    names = [path.relative_to(root).parts[0] for path in kept] if all(nested) else []
    return pixels[: len(kept)], names


def _read_image(path: Path, size: int, channels: int) -> Tensor:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("images needs Pillow: pip install 'scoresde[data]'") from error
    try:
        with Image.open(path) as file:
            if file.mode.startswith(("I", "F")):
                raise ValueError(f"mode {file.mode} has more than 8 bits a channel")
            image = ImageOps.exif_transpose(file).convert("RGB" if channels == 3 else "L")
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    resized = square.resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(resized)).view(size, size, channels).permute(2, 0, 1)
