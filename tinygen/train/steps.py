"""The bookkeeping of a training loop, so that what is left of it in an example is the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..tensor import Tensor
from . import checkpoint
from .cli import CtrlC, stopped
from .errors import UserError
from .loop import Progress, check_finite
from .run import RunFolder

__all__ = ["Steps", "begin"]


def begin(settings: Mapping[str, Any], run: RunFolder, saved: Mapping[str, Any]) -> int:
    """Load the run's checkpoint into `saved` (the arguments of `checkpoint.load`), if there is
    one, and open the folder: returns the number of steps that are done.

    Raises UserError if that is more than `settings["steps"]`, or the checkpoint another model's.
    """
    done = checkpoint.load(run.checkpoint, **saved) if run.checkpoint.exists() else 0
    if settings["steps"] < done:
        raise UserError(f"--steps {settings['steps']}: {run.path} is at step {done} already")
    run.start(settings)
    run.forget_after(done)
    return done


class Steps:
    """The steps of a run that are left, `start + 1` to `settings["steps"]`, and what they leave on
    disk: metrics every `log_every` of them, a checkpoint of `saved` (the arguments of
    `checkpoint.save`) every `save_every` and at the end.

    `wants_samples` is true at the steps in `early`, every `settings["sample_every"]` and at the
    last. Ctrl-C ends the loop after the step in flight, with a checkpoint, by raising `Stopped`.

        with Steps(settings, run, saved, start=done, log_every=50, save_every=500) as steps:
            for step, (images, _) in zip(steps, loader.batches(done, last)):
                steps.log(learn(Tensor(images)))
                if steps.wants_samples:
                    save_samples(step)
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        run: RunFolder,
        saved: Mapping[str, Any],
        *,
        start: int,
        log_every: int,
        save_every: int,
        early: Sequence[int] = (),
        batch_size: int | None = None,
        unit: str = "images",
    ):
        self.run, self.saved, self.unit = run, saved, unit
        self.last, self.sample_every = settings["steps"], settings["sample_every"]
        self.log_every, self.save_every, self.early = log_every, save_every, early
        batch_size = batch_size or settings["batch_size"]
        self.progress = Progress(self.last, batch_size=batch_size, start=start, unit=unit)
        self._ctrl_c = CtrlC()
        self._step = start

    def __enter__(self) -> Steps:
        self._ctrl_c.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._ctrl_c.__exit__(*error)

    def __iter__(self) -> Iterator[int]:
        for step in self.progress:
            self._step = step
            yield step
            if self._due(self.save_every) or self._ctrl_c.pressed:
                checkpoint.save(self.run.checkpoint, step=step, **self.saved)
            if self._ctrl_c.pressed and step < self.last:
                raise stopped(self.run, step, self.last)

    def log(
        self,
        outcome: Mapping[str, Tensor],
        more: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        """Show and write down what a step came to, and what `more` measures, every few steps.

        To be called at every step: reading a number waits for the GPU, so only few are read.
        Raises NonFiniteLoss at one that is no number, before anything is saved.
        """
        due = self._due(self.log_every)
        if not due and not self._ctrl_c.pressed:
            return
        numbers = {name: value.item() for name, value in outcome.items()}
        check_finite(self._step, numbers)
        if due:
            numbers.update(more() if more else {})
            self.progress.show(numbers)
            self.run.log(self._step, numbers, self.progress.images_per_second, self.unit)

    @property
    def wants_samples(self) -> bool:
        """Whether samples of this step are to be kept."""
        return self._step in self.early or self._due(self.sample_every)

    def _due(self, every: int) -> bool:
        return self._step % every == 0 or self._step == self.last
