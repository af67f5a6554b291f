"""Runs from a configuration: train one, load one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from scoresde import config as configs
from scoresde.chains.ladder import require_ladder
from scoresde.config import Config
from scoresde.data import Affine, Dataset, batches, random_crop, random_flip
from scoresde.data.moments import moments
from scoresde.denoiser import BaseDenoiser
from scoresde.integrate import levels_of
from scoresde.likelihood import Trace
from scoresde.models import build_model, clipped, require_fit
from scoresde.pretrained import Trained, draw
from scoresde.sde import SDE, Prior
from scoresde.solvers import Solver
from scoresde.training import (
    Batch,
    CosineDecay,
    LearnedUncertainty,
    Record,
    TensorBoard,
    Warmup,
    load_model,
    train,
)


@dataclass(frozen=True)
class Run:
    """A run, and what it is made of.

    Attributes:
        config: its configuration.
        data: the data set.
        transform: from data to model space.
        model: the denoiser, with averaged weights once it is trained.
        history: the loss curve of its training.
    """

    config: Config
    data: Dataset
    transform: Affine
    model: BaseDenoiser
    history: tuple[Record, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def prior(self) -> Prior:
        """Return the Gaussian with the moments that the training data have at T."""
        mean, variance = moments(self.data.train, self.transform.forward)
        dtype = torch.get_default_dtype()
        return self.model.sde.prior(mean.to(self.device, dtype), variance.to(self.device, dtype))

    @property
    def order(self) -> Tensor:
        """Test rows (M,) in the random order in which likelihoods take them, in all runs the same.

        The first of a file, which may be sorted, are no sample of it.
        """
        seeded = torch.Generator().manual_seed(0)
        return torch.randperm(len(self.data.test), generator=seeded)

    def held_out(self, n: int | None = None) -> Tensor:
        """Return the first n test samples of `order`, in model space, for the likelihood.

        Grey levels are dequantised the same way every time, or in the middles of their bins for a
        likelihood of their own.
        """
        generator = torch.Generator().manual_seed(self.config.seed)
        x = self.data.test[self.order[:n]]
        return self.transform.forward(x, None if self.of_levels else generator)

    @property
    def given(self) -> Tensor | None:
        """Classes (M,) of the samples of `held_out`, if likelihoods are p(x | class); or None.

        They are where the network was told the class of every sample: it knows no p(x) then.
        """
        trained = _trained(configs.build_at(self.config, "objective", configs.OBJECTIVE))
        if not self.config.conditional or getattr(trained, "label_dropout", 0.0):
            return None
        assert self.data.test_labels is not None
        return self.data.test_labels[self.order]

    @property
    def of_levels(self) -> bool:
        """Whether likelihoods are of grey levels themselves: a bound of a model trained on them.

        By the flow they are of dequantised data, whatever the model was trained on.
        """
        return self.config.likelihood.method != "flow" and self.bins is not None

    @property
    def bins(self) -> Affine | None:
        """The transform, where the model is trained on grey levels themselves, or None."""
        dequantised = self.config.train.dequantise or self.transform.levels is None
        return None if dequantised else self.transform

    def trained(self) -> Trained:
        """Return the model with what drawing from it needs of the data."""
        classes = self.data.classes if self.config.conditional else ()
        shape, prior = self.data.shape, self.prior()
        return Trained(self.config, self.model, self.transform, prior, shape, classes)


def device() -> torch.device:
    """Return where models are: the GPU, where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build_run(config: Config) -> Run:
    """Return the untrained run of a configuration, on the GPU where there is one.

    Raises:
        ValueError: settings that are out of range, or name nothing, those of sampling and of
            likelihoods among them; a network that does not take the data.
    """
    for section in ("sample", "likelihood"):
        for name in ("steps", "batch_size"):
            if config[section][name] < 1:
                raise ValueError(f"config.{section}.{name}={config[section][name]}: at least 1")
        solver = configs.build_at(config, f"{section}.solver", Solver)
        if section == "likelihood" and solver.stochastic:
            raise ValueError(f"config.likelihood.solver: {solver} is stochastic, the flow is not")
        configs.build_grid(config, section)
    for section in ("train", "sample"):
        configs.amp(config, section)
    configs.build_at(config, "likelihood.trace", Trace)
    configs.build_at(config, "objective", configs.OBJECTIVE)
    method, levels = config.likelihood.method, config.likelihood.levels
    if method not in ("flow", "elbo", "vlb"):
        raise ValueError(f"config.likelihood.method={method!r} must be 'flow', 'elbo' or 'vlb'")
    if method == "flow" and config.likelihood.clip:
        raise ValueError("config.likelihood.clip=True: is for bounds; set it to False")
    if levels < 2:
        raise ValueError(f"config.likelihood.levels={levels}: at least 2, for a standard error")
    data, transform = configs.build_data(config)
    model = build_model(config, data, transform)
    require_fit(config, model, data)
    for section in ("sample", "likelihood"):
        clipped(model, config, section, transform, data.shape)
    _check_levels(config, model.sde)
    settled = configs.settle(config, transform, model.data_std)
    return Run(settled, data, transform, model.to(device()))


def load_run(workdir: Path, config: Config) -> Run:
    """Return the run of a folder, with the averaged weights of its newest checkpoint.

    Raises:
        FileNotFoundError: there is no checkpoint in the folder.
    """
    run = build_run(config)
    load_model(workdir, run.model)
    run.model.eval()
    return run


def train_run(config: Config, workdir: Path) -> Run:
    """Train the run of a configuration in a folder, or go on where it stopped.

    Raises:
        ValueError: a checkpoint of another configuration in the folder, which is left as it is;
            settings that are out of range, or that the data do not allow.
    """
    optim, chosen, schedule = config.optim, config.train, _schedule(config)
    run = build_run(configs.recall(config, workdir))
    objective = configs.build_at(config, "objective", configs.OBJECTIVE, transform=run.bins)
    _check_dropout(config, objective)
    board = _tensorboard(run, workdir)
    state = train(
        run.model,
        objective,
        _stream(run),
        steps=chosen.steps,
        optimizer=Adam(run.model.parameters(), lr=optim.lr, fused=True),
        schedule=schedule,
        ema_decay=chosen.ema_decay,
        grad_clip=chosen.grad_clip,
        amp=configs.amp(config, "train"),
        seed=config.seed,
        workdir=workdir,
        config=configs.identity(config, run.transform),
        checkpoint_every=chosen.checkpoint_every,
        log_every=chosen.log_every,
        # not before it is known that the folder holds no other run
        begin=lambda _: configs.save(run.config, workdir),
        callbacks=board,
    )
    for callback in board:
        callback.close()
    average = state.ema.module
    assert isinstance(average, BaseDenoiser)
    return replace(run, model=average.eval(), history=tuple(state.history))


def _check_levels(config: Config, sde: SDE) -> None:
    """Refuse what has no levels on the process of a run before it is trained."""
    if config.likelihood.method == "vlb":
        require_ladder(sde, "config.likelihood.method='vlb'")
    for section, denoise in (("sample", True), ("likelihood", False)):
        grid = configs.build_grid(config, section)
        try:
            if grid is not None:
                levels_of(sde, grid, config[section].steps, denoise, part=False)
        except ValueError as error:
            raise ValueError(f"config.{section}.grid: {error}") from error


def _trained(objective: object) -> object:
    return objective.objective if isinstance(objective, LearnedUncertainty) else objective


def _check_dropout(config: Config, objective: object) -> None:
    if getattr(_trained(objective), "label_dropout", 0.0) and not config.conditional:
        raise ValueError(
            f"config.objective={config.objective!r} drops labels, of which the network is told "
            "none: leave label_dropout out, or set config.conditional=True"
        )


def _schedule(config: Config) -> Warmup | CosineDecay:
    steps, warmup = config.train.steps, config.optim.warmup
    for name, value in (("train.steps", steps), ("optim.warmup", warmup)):
        if value < 1:
            raise ValueError(f"config.{name}={value}: at least 1")
    if config.optim.decay and warmup > steps:
        raise ValueError(
            f"config.optim.warmup={warmup} is more than config.train.steps={steps}; lower it too, "
            f"such as --config.optim.warmup={max(1, steps // 10)}"
        )
    return CosineDecay(steps, warmup) if config.optim.decay else Warmup(warmup)


def _stream(run: Run) -> Batch:
    """Return the batches of a run as a function of the step, dequantised if so set."""
    config, data = run.config, run.data
    labels = data.train_labels if config.conditional else None
    shift = config.train.shift
    if not 0 <= shift < min(data.shape[1:], default=1):
        raise ValueError(
            f"config.train.shift={shift}: samples are of shape {data.shape}; set it to 0"
        )
    stream, upcoming = None, -1

    def batch(step: int) -> tuple[Tensor, dict[str, Any] | None]:
        nonlocal stream, upcoming
        if stream is None or step != upcoming:
            stream = batches(
                data.train,
                config.train.batch_size,
                seed=config.seed,
                start_step=step,
                labels=labels,
                ahead=4,  # hides the latency of a disk: docs/data.md
            )
        upcoming = step + 1
        x, label = next(stream)
        # the global generator follows from the seed and the step here
        generator = torch.default_generator
        x = random_flip(x, generator) if config.train.flip else x
        x = random_crop(x, data.shape[1:], generator, padding=shift) if shift else x
        noise = generator if config.train.dequantise else None
        return run.transform.forward(x, noise), None if label is None else {"label": label}

    return batch


def _tensorboard(run: Run, workdir: Path) -> list[TensorBoard]:
    config = run.config
    if not config.train.tensorboard:
        return []
    if not config.train.sample_every:
        return [TensorBoard(workdir / "tensorboard")]
    if run.data.shape[:-2] not in ((1,), (3,)):
        raise ValueError(
            f"train.sample_every={config.train.sample_every}: samples of shape {run.data.shape} "
            f"are no images (1 or 3, H, W) to show; set it to 0"
        )

    def images(model: BaseDenoiser) -> Tensor:
        pixels, _ = draw(replace(run, model=model.eval()).trained(), 64)
        return pixels.float() / float(pixels.max().clamp(min=1))

    return [TensorBoard(workdir / "tensorboard", images, config.train.sample_every)]
