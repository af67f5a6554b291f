"""Signals that ask a run to stop, turned into an exception where its state is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Self

ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
"""What schedulers send, and Ctrl-C."""


class Preempted(SystemExit):
    """A run was asked to stop, and saved a checkpoint. Uncaught, it exits with 128 + the signal.

    Attributes:
        signum: the signal.
        checkpoint: where the run can go on from.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum
        self.checkpoint: Path | None = None


class Signals:
    """A context in which the signals of `ASKING` raise `Preempted`, but only where it is safe to.

    The first signal gives all their former handlers back, so a second one acts at once. Outside
    the main thread, where Python takes no signals, nothing is handled.

    Args:
        enabled: False handles none.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._enabled = enabled and threading.current_thread() is threading.main_thread()
        self._former: dict[int, Any] = {}
        self._received: int | None = None
        self._safe = False

    def __enter__(self) -> Self:
        if self._enabled:
            for signum in ASKING:
                self._former[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        while self._former:
            signum, handler = self._former.popitem()
            # None stands for a handler that was not set from Python and cannot be set again
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    @contextmanager
    def safe(self) -> Iterator[None]:
        """Raise `Preempted` on entry for a signal received, and at once for one to come."""
        self._safe = True
        try:
            if self._received is not None:
                raise Preempted(self._received)
            yield
        finally:
            self._safe = False

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self._received = signum
        self.__exit__()
        if self._safe:
            raise Preempted(signum)
