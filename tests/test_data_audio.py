"""Folders of sounds: every depth of PCM, rates, channels, and files that cannot be used."""

from __future__ import annotations

import struct
import sys
import tracemalloc
import wave

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from scipy.signal import resample_poly

from scoresde import data

RATE = 8000


def write(path, samples, width=2, rate=RATE):
    """Write PCM of 8 to 32 bits from integers (L,) or (L, C), by the standard library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.asarray(samples)
    samples = samples[:, None] if samples.ndim == 1 else samples
    shifted = samples + 128 if width == 1 else samples
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        whole = np.ascontiguousarray(shifted.astype("<i4")).view(np.uint8).reshape(-1, 4)
        file.writeframes(whole[:, :width].tobytes())


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_integers_are_over_their_full_scale(tmp_path, width):
    full = 2 ** (8 * width - 1)
    samples = np.array([-full, -1, 0, 1, full // 2, full - 1])
    write(tmp_path / "a.wav", samples, width)
    found = data.audio(tmp_path, length=6).train
    assert found.dtype == torch.get_default_dtype()
    torch.testing.assert_close(
        found[0, 0].double(), torch.tensor(samples / full), rtol=1e-7, atol=0
    )


def test_floats_are_as_they_are(tmp_path):
    samples = np.array([-1.0, 0.25, 1.5], dtype=np.float32)
    wavfile.write(tmp_path / "a.wav", RATE, samples)
    assert data.audio(tmp_path, length=3).train.flatten().tolist() == samples.tolist()
    wavfile.write(tmp_path / "a.wav", RATE, np.where(samples > 0, np.nan, samples))
    with pytest.raises(ValueError, match=r"a\.wav cannot be read .*not finite"):
        data.audio(tmp_path, length=3)


def test_the_middle_is_cut_or_padded(tmp_path):
    write(tmp_path / "a.wav", [1, 2, 3, 4, 5])
    for length, expected in [(5, "12345"), (4, "1234"), (3, "234"), (6, "123450"), (8, "01234500")]:
        found = 2**15 * data.audio(tmp_path, length=length).train.flatten()
        assert found.tolist() == [float(k) for k in expected]


def test_channels_are_mixed_kept_or_repeated(tmp_path):
    stereo = np.array([[2, 4], [6, -8], [0, 1]])
    write(tmp_path / "stereo" / "a.wav", stereo)
    write(tmp_path / "mono" / "a.wav", stereo[:, 0])
    scale = 2**15
    mixed = data.audio(tmp_path / "stereo", length=3).train * scale
    assert mixed.tolist() == [[stereo.mean(1).tolist()]]
    kept = data.audio(tmp_path / "stereo", length=3, channels=2).train * scale
    assert kept.tolist() == [stereo.T.tolist()]
    twice = data.audio(tmp_path / "mono", length=3, channels=2).train * scale
    assert twice.tolist() == [[[2, 6, 0]] * 2]
    with pytest.raises(ValueError, match=r"a\.wav .*2 channels, not 3; pass channels=1"):
        data.audio(tmp_path / "stereo", length=3, channels=3)


def test_other_rates_are_resampled_where_a_rate_is_named(tmp_path):
    times = np.arange(RATE) / RATE
    tone = (8000 * np.cos(2 * np.pi * 200 * times)).round().astype(int)
    write(tmp_path / "a.wav", tone)
    write(tmp_path / "b.wav", tone[::2], rate=RATE // 2)
    whole, half = data.audio(tmp_path, length=4000, rate=RATE).train[:, 0]
    # away from the ends, where the filter sees silence
    torch.testing.assert_close(whole[200:-200], half[200:-200], rtol=0, atol=2e-3)
    with pytest.raises(ValueError, match=r"b\.wav .*rate is 4000 Hz, .*8000 Hz; pass rate=8000"):
        data.audio(tmp_path, length=4000)


@pytest.mark.parametrize(
    ("found", "rate", "length"),
    [(RATE, 11025, 100), (11025, RATE, 100), (3, 200, 51), (RATE, 7, 2), (RATE, 16000, 4001)],
)
def test_the_middle_is_that_of_the_whole_resampled(tmp_path, found, rate, length):
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, 3001)
    write(tmp_path / "a.wav", samples, rate=found)
    whole = resample_poly(samples / 2**15, rate, found)
    before = (len(whole) - length) // 2
    middle = torch.tensor(whole[before : before + length]).float()
    assert torch.equal(data.audio(tmp_path, length=length, rate=rate).train[0, 0], middle)


def test_no_more_is_resampled_than_the_middle_needs(tmp_path):
    write(tmp_path / "a.wav", np.ones(100_000, int), rate=1)
    tracemalloc.start()
    data.audio(tmp_path, length=1000, rate=1000)  # of 10^8 samples
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


def test_sub_folders_name_the_classes(tmp_path):
    for name, value in [("train/yes/a", 1), ("train/no/a", 2), ("test/yes/a", 3)]:
        write(tmp_path / f"{name}.wav", [value])
    dataset = data.audio(tmp_path / "train", tmp_path / "test", length=1)
    assert (dataset.classes, dataset.levels, dataset.name) == (("no", "yes"), None, "train")
    assert (2**15 * dataset.train).flatten().tolist() == [2, 1]
    assert (dataset.train_labels.tolist(), dataset.test_labels.tolist()) == ([0, 1], [1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: whole[:-1], "it has 5 of its 6 bytes of samples"),
        (lambda whole: whole[:-2], "it has 4 of its 6 bytes of samples"),
        (lambda whole: whole[:4] + bytes([40]) + whole[5:-2], "it has 4 of its 6 bytes"),
        (lambda whole: whole[:16] + b"\xff" + whole[17:], "no whole WAV file"),
        (lambda whole: whole[:20] + b"\x07" + whole[21:], "MULAW"),
        (lambda whole: whole[:24] + bytes(8) + whole[32:], "its rate is 0 Hz"),
        (lambda whole: whole[:30], "cannot be read"),
        (lambda whole: b"", "cannot be read"),
        (lambda whole: whole[:12], "no whole WAV file: it has no format"),
        (lambda whole: whole[:36], "no whole WAV file: .* or no samples"),
        (lambda whole: whole[:22] + bytes(2) + whole[24:], "no whole WAV file"),  # no channels
        (lambda whole: b"OggS" + whole[4:], "cannot be read"),
        (lambda whole: whole[:4] + struct.pack("<I", 36) + whole[8:40] + bytes(4), "no samples"),
    ],
)
def test_damaged_sounds_are_refused_or_skipped(tmp_path, damage, message):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.wav", [1, 2, 3])
    path = tmp_path / "b.wav"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"b\.wav .*{message}"):
        data.audio(tmp_path, length=3)
    with pytest.warns(UserWarning, match=r"skipped 1 of 2 sounds .*: b\.wav"):
        assert len(data.audio(tmp_path, length=3, on_error="skip").train) == 1


def riff(kind, bits, body, extension=b"", before=b"", channels=1, rate=RATE, **sizes):
    """Return a WAV file of a format, with chunks before its samples, and its sizes if declared."""
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", kind, channels, rate, rate * block, block, bits) + extension
    size = sizes.get("size", len(body))
    content = b"WAVEfmt " + struct.pack("<I", len(form)) + form + before
    content += b"data" + struct.pack("<I", size) + body + bytes(len(body) % 2)
    whole = min(sizes.get("whole", len(content)), 2**32 - 1)
    return b"RIFF" + struct.pack("<I", whole) + content


def extension(kind, valid):
    """Return the rest of a WAVE_FORMAT_EXTENSIBLE header."""
    guid = struct.pack("<H", kind) + bytes.fromhex("000000001000800000aa00389b71")
    return struct.pack("<HHI", 22, valid, 4) + guid


@pytest.mark.parametrize(
    ("content", "scale"),
    [
        (riff(0xFFFE, 16, struct.pack("<3h", 1, 2, 3), extension(1, 16)), 2**15),
        (riff(0xFFFE, 24, b"\1\0\0\2\0\0\3\0\0", extension(1, 24)), 2**23),
        (riff(0xFFFE, 32, struct.pack("<3f", 1, 2, 3), extension(3, 32)), 1),
        (riff(3, 64, struct.pack("<3d", 1, 2, 3)), 1),
        (riff(1, 8, bytes([129, 130, 131])), 2**7),  # an odd number of bytes, and one to fill up
        (riff(1, 16, struct.pack("<3h", 1, 2, 3), before=b"note\3\0\0\0odd\0"), 2**15),
        *(
            (riff(1, 16, struct.pack("<3h", 1, 2, 3), size=size, whole=size + 36), 2**15)
            # of pipes: of SoX, and the greatest there are, with their header and without
            for size in (0x7FFFF000, 0x7FFFFFFF, 0x80000000, 2**32 - 37, 2**32 - 1)
        ),
        (
            riff(
                1, 24, bytes([1, 0, 0] * 2 + [2, 0, 0] * 2 + [3, 0, 0] * 2), channels=2, size=2**31
            ),
            2**23,
        ),
    ],
)
def test_headers_of_all_kinds_are_read(tmp_path, content, scale):
    (tmp_path / "a.wav").write_bytes(content)
    assert (data.audio(tmp_path, length=3).train * scale).flatten().tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (riff(3, 64, struct.pack("<3d", 1, 1e300, 3)), {}, "not finite in torch.float32"),
        (riff(3, 16, bytes(6)), {}, "Unsupported bit depth"),
        (riff(1, 16, bytes(6), rate=2**30), {"rate": RATE}, "rate is 1073741824 Hz, too far from"),
        (riff(1, 16, bytes(6), channels=2), {"channels": 2}, "no whole WAV file"),
        (riff(1, 16, bytes(6), before=b"note\3\0\0\0odd"), {}, "no format, or no samples"),
        (riff(1, 16, bytes(6), size=0x7FFFEFFF), {}, "has 6 of its 2147479551 bytes of samples"),
    ],
)
def test_sounds_that_cannot_be_used_are_refused_by_name(tmp_path, content, arguments, message):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.wav cannot be read \(.*{message}"):
        data.audio(tmp_path, length=3, **arguments)


def test_the_rate_is_that_of_the_first_sound_that_can_be_read(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"no sound")
    with pytest.raises(ValueError, match="none of the 1 sounds"):
        data.audio(tmp_path, length=2, on_error="skip")
    write(tmp_path / "b.wav", [1, 2], rate=RATE)
    write(tmp_path / "c.wav", [3, 4], rate=2 * RATE)
    with pytest.warns(UserWarning, match=r"skipped 2 of 3 sounds .*: a\.wav, c\.wav"):
        found = data.audio(tmp_path, length=2, on_error="skip").train
    assert (2**15 * found).flatten().tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"a\.wav cannot be read"):
        data.audio(tmp_path, length=2)


def test_chunks_that_are_no_sound_are_passed_over(tmp_path):
    write(tmp_path / "a.wav", [1, 2, 3])
    path = tmp_path / "a.wav"
    path.write_bytes(path.read_bytes() + b"odd " + struct.pack("<I", 4) + b"abcd")
    assert (2**15 * data.audio(tmp_path, length=3).train).flatten().tolist() == [1, 2, 3]


def test_folders_of_sounds_that_cannot_be_used_are_refused(tmp_path, monkeypatch):
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no sounds \(\.wav\)"):
        data.audio(tmp_path, length=3)
    write(tmp_path / "a.wav", [1, 2, 3])
    for arguments, message in [
        ({"length": 0}, "length=0 must be a positive integer"),
        ({"length": 2.5}, "length=2.5 must be a positive integer"),
        ({"length": 1, "rate": 0}, "rate=0 must be a positive integer"),
        ({"length": 1, "on_error": "stop"}, "on_error='stop'"),
    ]:
        with pytest.raises(ValueError, match=message):
            data.audio(tmp_path, **arguments)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError, match=r"pip install 'scoresde\[audio\]'"):
        data.audio(tmp_path, length=3)
