"""Folders of sounds."""

from __future__ import annotations

import warnings
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from scoresde.data.checks import require_count
from scoresde.data.dataset import Dataset
from scoresde.data.folders import Reader, files, read_folder
from scoresde.data.parts import read_parts

_SUFFIXES = (".wav",)
_MAX_RATIO = 2**18
_UNKNOWN = 0x7FFFF000
"""Writers to a pipe declare this many bytes of samples (SoX) or more, up to 2^32 - 1."""


def audio(
    train: str | Path,
    test: str | Path | None = None,
    *,
    length: int,
    rate: int | None = None,
    channels: int = 1,
    on_error: Literal["raise", "skip"] = "raise",
    cache: str | Path | None = None,
) -> Dataset:
    """Read the .wav files of a folder and of all folders in it: shape (channels, length).

    Samples are floats, -1 to 1 at full scale: an integer of b bits over 2^(b-1), so that those of
    16 bits lie 2^-15 apart. The middle of a sound is cut to `length`, or padded with silence on
    both sides. Files are taken in the order of their paths. Where they lie in sub-folders, the
    names of these are the classes. Folders whose names begin with a dot, and __MACOSX, are passed
    over.

    Args:
        train: the folder of the training sounds.
        test: the folder of the test sounds. Without one the test set is empty: see `Dataset.split`.
        length: of a sample, in sampling intervals.
        rate: samples a second, to which sounds of other rates are resampled (by
            `scipy.signal.resample_poly`, which may overshoot full scale a little); None takes the
            rate of the first file (that can be read), and refuses another.
        channels: of a sample. One channel is the mean of those of the file; several are those of
            the file, or its single one over and over.
        on_error: what to do with a file that cannot be used, as for `images`.
        cache: a folder in which the samples are kept and from which they are read, as for `images`.

    Raises:
        ImportError: SciPy is not installed.
        FileNotFoundError: a folder is missing or holds no sounds.
        ValueError: an argument is out of range, a sound cannot be read or is of another rate or of
            other channels, sounds lie both in a folder and in its sub-folders, or the test sounds
            have other classes.
    """
    length, channels = require_count("length", length), require_count("channels", channels)
    resample = rate is not None
    rate = _rate(Path(train), on_error) if rate is None else require_count("rate", rate)
    reader = Reader(
        "sounds",
        _SUFFIXES,
        partial(_read_sound, length=length, rate=rate, resample=resample, channels=channels),
        shape=(channels, length),
        dtype=torch.get_default_dtype(),
        settings=(rate, resample),
        on_error=on_error,
        cache=cache,
    )
    return read_parts(partial(read_folder, reader=reader), train, test)


def _rate(root: Path, on_error: str) -> int:
    """Return the rate of the first file that can be read."""
    paths = files(root, "sounds", _SUFFIXES)
    for path in paths:
        try:
            return _decode(path)[0]
        except ValueError as error:
            if on_error != "skip":
                raise ValueError(f"{path} cannot be read ({error}): repair or remove it") from error
    raise ValueError(f"none of the {len(paths)} sounds in {root} can be read")


def _read_sound(path: Path, length: int, rate: int, resample: bool, channels: int) -> Tensor:
    found, wave = _decode(path)
    if found != rate and not resample:
        raise ValueError(
            f"its rate is {found} Hz, that of the first file {rate} Hz; pass rate={rate} to "
            "resample, or convert it"
        )
    if channels == 1:
        wave = wave.mean(axis=0, keepdims=True)
    elif len(wave) not in (1, channels):
        raise ValueError(f"it has {len(wave)} channels, not {channels}; pass channels=1 to mix")
    if found != rate:
        up, down = Fraction(rate, found).as_integer_ratio()
        if max(up, down) > _MAX_RATIO:  # its filter is 20 times as long
            raise ValueError(f"its rate is {found} Hz, too far from {rate} Hz to resample")
        wave = _resample_middle(wave, up, down, length)
    extra = wave.shape[1] - length
    before = abs(extra) // 2
    if extra >= 0:
        wave = wave[:, before : before + length]
    else:
        wave = np.pad(wave, ((0, 0), (before, -extra - before)))
    return torch.from_numpy(wave).to(torch.get_default_dtype()).expand(channels, length)


def _resample_middle(wave: np.ndarray, up: int, down: int, length: int) -> np.ndarray:
    """Return the middle, of `length` or all of it, of wave (C, L) at up / down times its rate.

    Only what the middle follows from is resampled: output m lies at input m * down / up, and the
    filter reaches 10 * max(up, down) / up inputs to either side.
    """
    from scipy.signal import resample_poly

    total = -(-wave.shape[1] * up // down)
    first = max(total - length, 0) // 2
    reach = 10 * max(up, down)
    periods = max(first * down - reach, 0) // (up * down)  # whole ones, that outputs stay in place
    end = -(-((first + length) * down + reach) // up)
    part = resample_poly(wave[:, periods * down : end], up, down, axis=1)
    return part[:, first - periods * up :][:, :length]


def _decode(path: Path) -> tuple[int, np.ndarray]:
    """Return the rate, and the wave (C, L) in float64, of full scale 1."""
    try:
        from scipy.io import wavfile
    except ImportError as error:
        raise ImportError("audio needs SciPy: pip install 'scoresde[audio]'") from error
    try:
        _require_whole(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks that are no sound
            rate, wave = wavfile.read(path)
    except Exception as error:  # a damaged file raises anything
        raise ValueError(f"no whole WAV file: {error}") from error
    if not len(wave) or rate < 1:
        raise ValueError("it has no samples" if rate else "its rate is 0 Hz")
    if wave.dtype == np.uint8:  # 8 bits are the only ones without a sign
        wave = wave.astype(np.float64) / 2**7 - 1
    elif wave.dtype.kind == "i":  # 24 bits come as the upper ones of 32
        wave = wave.astype(np.float64) / 2 ** (8 * wave.dtype.itemsize - 1)
    if not (np.abs(wave) <= torch.finfo(torch.get_default_dtype()).max).all():
        raise ValueError(f"it holds values that are not finite in {torch.get_default_dtype()}")
    return rate, wave.astype(np.float64).reshape(len(wave), -1).T


def _require_whole(path: Path) -> None:
    """Raise ValueError where the file ends before its samples do, of which SciPy returns the rest.

    A writer to a pipe cannot tell their number: there all that follows are samples.
    """
    found = set()
    with path.open("rb") as file:
        order = "big" if file.read(12)[:4] == b"RIFX" else "little"
        while len(head := file.read(8)) == 8:
            name, size = head[:4], int.from_bytes(head[4:], order)
            left = path.stat().st_size - file.tell()
            if name == b"data" and left < size < _UNKNOWN:
                raise ValueError(f"it has {left} of its {size} bytes of samples")
            found.add(name)
            file.seek(size + size % 2, 1)
    if not found >= {b"fmt ", b"data"}:
        raise ValueError("it has no format, or no samples")
