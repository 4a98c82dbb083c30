"""The command line that every example shares: flags, presets, exit codes, Ctrl-C.

An example states its presets and its own flags, and gets one dictionary of settings back:

    parser = cli.Parser("dcgan", PRESETS, description=__doc__)
    parser.add_argument("--lr-d", type=cli.positive(float), help="learning rate of D")
    settings, run = parser.parse(argv)

Exit codes: 0 the run ended, 2 a mistake of the user (one line on stderr), 130 stopped by Ctrl-C
(with a checkpoint to go on from). Anything else is a bug, and keeps its traceback.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..data import DataError
from ..device import PRECISIONS, DeviceError, check, explain, set_precision, use
from .errors import OutputError, Stopped, UserError
from .run import RunFolder

__all__ = ["CtrlC", "Parser", "command", "positive", "stopped"]

# They don't change what a step computes, but for the rounding.
FREE_ON_RESUME = ("steps", "device", "precision", "eager", "score")


class Parser(argparse.ArgumentParser):
    """Flags `--device --precision --eager --preset --data --steps --batch-size --image-size --seed
    --no-score --out --resume`.

    `presets` maps a name to a dictionary of settings (the first is the default); it must hold
    every setting but `device`, `precision`, `eager`, `seed` and `score`. A flag that is given wins
    over the preset. Without `image_size` in the presets there is no such flag. `data` is the help
    of --data; the settings `free_on_resume` may change from one part of a run to the next.
    """

    def __init__(
        self,
        model: str,
        presets: Mapping[str, Mapping[str, Any]],
        *,
        data: str = "a data set's name, or a folder of images",
        free_on_resume: Sequence[str] = (),
        **options: Any,
    ):
        # Only flags that were really given end up in the namespace: the rest is the preset's.
        super().__init__(
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )
        self.model = model
        self.presets = presets
        self.free_on_resume = {*FREE_ON_RESUME, *free_on_resume}
        default = next(iter(presets))
        add = self.add_argument
        add("--device", type=_device, help='"cpu" (default), "cuda" or "cuda:<index>"')
        add(
            "--precision",
            choices=PRECISIONS,
            help="of convolutions and matrix products on a GPU (default: tf32)",
        )
        add("--eager", action="store_true", help="on a GPU, don't capture the step as a graph")
        add("--preset", choices=list(presets), help=f"a set of settings (default: {default})")
        add("--data", help=data)
        add("--steps", type=positive(int), help="training steps in all")
        add("--batch-size", type=positive(int), help="examples per step")
        if "image_size" in presets[default]:
            add("--image-size", type=positive(int), help="height and width, in pixels")
        add("--seed", type=_seed, help="of every random number (default: 0)")
        add("--no-score", dest="score", action="store_false", help="don't score the samples")
        add("--out", type=Path, help=f"run folder (default: a new one, runs/{model}-<data>)")
        add(
            "--resume",
            action="store_true",
            help="go on with the run in --out (default: the latest); its settings are kept, "
            "--steps may be raised",
        )

    def parse(self, argv: Sequence[str] | None = None) -> tuple[dict[str, Any], RunFolder]:
        """The settings, and the folder for them (`run.start(settings)` writes there).

        A mistake in the flags ends the process with code 2; in the folder, it is a UserError.
        """
        given = vars(self.parse_args(argv))
        out = given.pop("out", None)
        if given.pop("resume", False):
            run = RunFolder.find(self.model, given.get("data"), out)
            settings = self._settings_of(run, given)
        else:
            settings = self._new_settings(given)
            run = RunFolder.create(self.model, settings["data"], out)
        self._prepare(settings)
        return {"model": self.model, **settings}, run

    def _prepare(self, settings: dict[str, Any]) -> None:
        """Make the device the current one, in the precision asked for."""
        use(settings["device"])
        if settings["device"] != "cpu":
            set_precision(settings["precision"])
        elif settings["precision"] != "fp32":
            self.error(f"argument --precision: {settings['precision']} needs --device cuda")

    def _new_settings(self, given: dict[str, Any]) -> dict[str, Any]:
        preset = given.get("preset", next(iter(self.presets)))
        defaults = {"preset": preset, "device": "cpu", "eager": False, "seed": 0, "score": True}
        settings = {**defaults, **self.presets[preset], **given}
        return {"precision": _usual_precision(settings["device"]), **settings}

    def _settings_of(self, run: RunFolder, given: dict[str, Any]) -> dict[str, Any]:
        """What the run was started with; a flag that would make it another run is an error."""
        saved = run.read_config()
        if saved.pop("model", None) != self.model:
            raise UserError(f"{run.path} does not hold a run of {self.model}")
        for name, value in given.items():
            if name not in self.free_on_resume and saved.get(name) != value:
                flag = "--" + name.replace("_", "-")
                raise UserError(
                    f"{run.path} was started with {flag} {saved.get(name)}, which {flag} {value} "
                    "would change: leave the flag out to go on with that run, "
                    "or leave --resume out to start another"
                )
        settings = {**saved, **given}
        # Settings that came into the program after the run began.
        for name, value in {"eager": False, **self.presets.get(saved.get("preset"), {})}.items():
            settings.setdefault(name, value)
        if settings["device"] != saved["device"] or "precision" not in saved:
            settings["precision"] = _usual_precision(settings["device"])
        return {**settings, **given}

    def error(self, message: str) -> NoReturn:
        """One line, where argparse would print the whole usage before it."""
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def _usual_precision(device: str) -> str:
    return "fp32" if device == "cpu" else "tf32"


def positive(number: type) -> Callable[[str], Any]:
    """An argparse type: a number above zero."""

    def convert(text: str):
        value = number(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text} is not above zero")
        return value

    convert.__name__ = number.__name__  # argparse names it: "invalid int value: 'x'"
    return convert


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 2³² - 1")
    return value


_seed.__name__ = "int"


def _device(text: str) -> str:
    try:
        check(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def command(main: Callable[[Sequence[str] | None], Any], argv: Sequence[str] | None = None) -> int:
    """Run an example's `main(argv)` and return the process's exit code: `sys.exit(command(main))`.

    The user's mistakes and Ctrl-C become one line on stderr; a bug passes through.
    """
    name = Path(sys.argv[0]).name
    try:
        main(argv)
    except (UserError, OutputError, DataError, DeviceError) as error:
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        print(f"{name}: error: {explained}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        saved = str(error) if isinstance(error, Stopped) else "stopped; nothing was lost"
        print(f"{name}: {saved}", file=sys.stderr)
        return 130
    return 0


def stopped(run: RunFolder, step: int, steps: int) -> Stopped:
    """What a loop raises after Ctrl-C, once it has saved: how to go on."""
    return Stopped(
        f"stopped after step {step} of {steps}; go on with: "
        f"python {sys.argv[0]} --resume --out {shlex.quote(str(run.path))}"
    )


class CtrlC:
    """Inside, the first Ctrl-C only sets `pressed`, so that a loop can finish its step and save.

    The second one stops at once; what is on disk is whole either way.
    """

    pressed = False

    def __enter__(self) -> CtrlC:
        self._installed = threading.current_thread() is threading.main_thread()
        if self._installed:  # Python hands signals to the main thread only
            self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._before)

    def _press(self, number: int, frame: object) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        print("\nCtrl-C: finishing this step and saving; again to stop at once", file=sys.stderr)
