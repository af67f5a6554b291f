"""Directories and files that appear whole or not at all, and tell when they are damaged.

The files of a directory are written and flushed to the disk in a temporary one beside the target,
with a manifest of their sizes and SHA-256 digests; one rename then gives it its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MANIFEST = "MANIFEST.json"

Digests = Mapping[str, tuple[int, str]]


class CorruptCheckpoint(RuntimeError):
    """A file of a checkpoint is missing, or is not what was written."""


def write(target: Path, contents: Mapping[str, bytes]) -> None:
    """Write a directory of files, in place of a damaged one of that name, and read it back.

    Raises:
        OSError: the disk is full or fails; there is no new directory then.
        CorruptCheckpoint: what was read back differs, likewise.
    """
    temporary = _aside(target)
    digests = {k: (len(v), hashlib.sha256(v).hexdigest()) for k, v in contents.items()}
    try:
        temporary.mkdir(parents=True)
        for name, data in {**contents, MANIFEST: _manifest(digests)}.items():
            with open(temporary / name, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _sync(temporary)
        problem = fault(temporary, list(contents))
        if problem is not None:
            raise CorruptCheckpoint(f"read back at once: {problem}")
        if target.exists():
            remove(target)
        os.rename(temporary, target)
        _sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace(path: Path, content: str | bytes) -> None:
    """Write a file, in place of the one of that name at once and whole.

    Raises:
        OSError: the disk is full or fails; the file is as it was then.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")  # several processes may write it
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # what a failure leaves


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: of the file.
        remedy: what to do where it is damaged.

    Raises:
        CorruptCheckpoint: it holds none.
    """
    try:
        found = json.loads(path.read_text())
    except ValueError as error:  # not JSON, or no text
        raise CorruptCheckpoint(f"{path}: is damaged ({error}); {remedy}") from error
    if not isinstance(found, dict):
        raise CorruptCheckpoint(f"{path}: holds no keys; {remedy}")
    return found


def fault(path: Path, names: Sequence[str]) -> str | None:
    """Return what is wrong with the named files of a directory, or None."""
    try:
        listed = (path / MANIFEST).read_bytes()
        digests = {name: _digest(path / name) for name in names}
    except OSError as error:
        return str(error)
    # comparing bytes leaves no part of the manifest unchecked
    if listed == _manifest(digests):
        return None
    wrong = [name for name, (_, sha) in digests.items() if sha.encode() not in listed]
    where = ", ".join(str(path / name) for name in wrong or [MANIFEST])
    return f"{where}: differs from what was written"


def remove(path: Path) -> None:
    """Delete a directory; a kill on the way leaves nothing under its name."""
    doomed = _aside(path)
    os.rename(path, doomed)
    shutil.rmtree(doomed)


def clean(folder: Path) -> None:
    """Delete what killed runs left of directories that they were writing or deleting."""
    for path in folder.glob(".tmp-*"):
        shutil.rmtree(path)


def _aside(path: Path) -> Path:
    # in the same folder, so that renames stay within one file system
    return path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> tuple[int, str]:
    with open(path, "rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _manifest(digests: Digests) -> bytes:
    files = {name: {"size": size, "sha256": sha} for name, (size, sha) in digests.items()}
    return json.dumps({"version": 1, "files": files}, indent=2).encode()
