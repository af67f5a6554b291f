"""A trained model as a folder of three files, of which none can run code.

config.json        the configuration, as in the folder of a run
model.json         what the data gave: the shape, the classes; and a digest of all three files
model.safetensors  parameters in half precision, buffers as they are, the prior's moments
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from scoresde import atomic
from scoresde import config as configs
from scoresde.atomic import CorruptCheckpoint
from scoresde.config import Config
from scoresde.data import Affine
from scoresde.models import build_denoiser
from scoresde.pretrained.trained import Trained
from scoresde.sde import Prior

WEIGHTS, FACTS = "model.safetensors", "model.json"

_HERE = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Return the names of the models that come with the package."""
    return tuple(sorted(path.parent.name for path in _HERE.glob(f"*/{FACTS}")))


def locate(name: str | Path) -> Path:
    """Return the folder of a model.

    Raises:
        ValueError: there is none; the names that there are.
    """
    for folder in (_HERE / name, Path(name)):
        if (folder / FACTS).is_file():
            return folder
    raise ValueError(
        f"pretrained={str(name)!r}: neither one of {', '.join(names())}, which come with the "
        f"package, nor a folder that `scoresde export` wrote"
    )


def load(
    name: str | Path, config: Config | None = None, *, device: torch.device | str = "cpu"
) -> Trained:
    """Load a model that comes with the package, or one that was saved in a folder.

    Its weights are widened to single precision.

    Args:
        name: one of `names()`, or a folder that `save` wrote.
        config: its configuration with other settings, such as those of sampling.
        device: where the model is to be.

    Raises:
        ValueError: there is no such model.
        CorruptCheckpoint: the files are not what was saved, or not of one model.
    """
    folder = locate(name)
    settled: Config = config or configs.load(folder)
    content = (folder / WEIGHTS).read_bytes()
    facts = _facts(folder, content)
    tensors = safetensors.torch.load(content)
    prior = Prior(*(tensors.pop(f"prior.{part}").to(device) for part in ("mean", "std")))
    shape, classes = tuple(facts["shape"]), tuple(facts["classes"])
    model = build_denoiser(settled, shape, len(classes) or None, settled.data_std)
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items()})
    transform = configs.build_at(settled, "transform", Affine)
    return Trained(settled, model.to(device).eval(), transform, prior, shape, classes)


def save(trained: Trained, folder: Path | str) -> None:
    """Write a model to a folder, for `load`: its parameters in half precision.

    That halves the file. The rounding is by 2^-11 of each weight, or 2^-25 of those below 2^-14,
    far below what training leaves.

    Raises:
        ValueError: a weight is beyond the range of half precision, 65504.
    """
    folder, prior = Path(folder), trained.prior
    tensors = {f"model.{k}": v for k, v in trained.model.state_dict().items()}
    for name, weight in trained.model.named_parameters():
        tensors[f"model.{name}"] = _half(name, weight.detach())
    tensors |= {"prior.mean": torch.as_tensor(prior.mean), "prior.std": torch.as_tensor(prior.std)}
    content = safetensors.torch.save({k: v.cpu().contiguous() for k, v in tensors.items()})
    facts = {"shape": list(trained.shape), "classes": list(trained.classes)}
    configs.save(trained.config, folder)
    atomic.replace(folder / WEIGHTS, content)
    facts["sha256"] = _digest(folder, facts, content)
    atomic.replace(folder / FACTS, json.dumps(facts, indent=2) + "\n")


def _facts(folder: Path, weights: bytes) -> dict[str, Any]:
    """Return what the data gave a model whose files are whole and of one another."""
    path, remedy = folder / FACTS, "install or export it again"
    facts = atomic.read_json(path, remedy)
    for key in ("shape", "classes", "sha256"):
        if key not in facts:
            raise CorruptCheckpoint(f"{path}: has no {key!r}; {remedy}")
    if _digest(folder, facts, weights) != facts["sha256"]:
        files = f"{configs.FILE}, {WEIGHTS} or {FACTS}"
        raise CorruptCheckpoint(f"{folder}: {files} differs from what was written; {remedy}")
    return facts


def _digest(folder: Path, facts: Mapping[str, Any], weights: bytes) -> str:
    """Return a digest of the configuration, the weights, the shape and the classes."""
    digest = hashlib.sha256(json.dumps([facts["shape"], facts["classes"]]).encode())
    for content in ((folder / configs.FILE).read_bytes(), weights):
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _half(name: str, weight: Tensor) -> Tensor:
    half = weight.half()
    if not bool(half.isfinite().all()):
        raise ValueError(
            f"{name}: a weight of {float(weight.abs().max()):.3g} is beyond the range of half "
            f"precision, 65504"
        )
    return half
