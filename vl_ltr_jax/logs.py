"""What a run says: event files for TensorBoard, progress on standard error.

CLU writes the event files, and with it come TensorFlow and TensorBoard: all are
imported here only, inside the functions that need them. Process 0 speaks; in every
other process each method does nothing.
"""

import os
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Float, Float64, Int64, UInt8

PROFILE_AFTER_STEPS = 5
CLEAR_LINE = "\r\x1b[K"


class Logs:
    """The writers of one stage; a context manager that flushes and closes them."""

    _profile: Any = None

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        title: str = "",
        profile_steps: int = 0,
    ):
        """Opens an event file.

        Args:
            directory: where the event file goes, usually `workdir/STAGE`.
            title: begins each progress line, usually the name of the stage.
            profile_steps: how many steps :meth:`after_step` profiles, once.
        """
        self._title = title
        self._line_is_open = False
        self._speaks = jax.process_index() == 0
        self._writer = _event_writer(directory) if self._speaks else None
        if self._speaks and profile_steps:
            self._profile = _profile(directory, profile_steps)

    def __enter__(self) -> "Logs":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._line_is_open:
            self._print("\n")
        if self._profile is not None:
            self._profile(sys.maxsize)  # ends a profile that is being taken
        if self._writer is not None:
            self._writer.close()

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes numbers or 0-d arrays under their names."""
        if self._writer is not None:
            numbers = {name: float(value) for name, value in values.items()}
            self._writer.write_scalars(step, numbers)

    def after_step(self, step: int) -> None:
        """To be called after each step: profiles some of them, if asked to."""
        if self._profile is not None:
            self._profile(step)

    def text(self, step: int, name: str, text: str) -> None:
        """Writes Markdown."""
        if self._writer is not None:
            self._writer.write_texts(step, {name: _encodable(text)})

    def images(
        self, step: int, name: str, images: UInt8[np.ndarray, "K height width 3"]
    ) -> None:
        """Writes K pictures under one name, which TensorBoard shows side by side."""
        if self._writer is not None:
            self._writer.write_images(step, {name: images})

    def histogram(self, step: int, name: str, values: Float[np.ndarray, " N"]) -> None:
        """Writes how values are distributed; those that are not finite are left out."""
        if self._writer is not None:
            finite = values[np.isfinite(values)]
            self._writer.write_histograms(step, {name: finite})

    def hparams(self, values: Mapping[str, Any]) -> None:
        """Writes a nested configuration; its keys are joined by dots."""
        if self._writer is not None:
            self._writer.write_hparams(_flatten(values))

    def parameters(self, params: Mapping[str, Any]) -> None:
        """Writes a table of the parameters as text and says their number.

        Args:
            params: a nested dict of arrays or `ShapeDtypeStruct`s.
        """
        if self._writer is None:
            return
        from clu import parameter_overview

        table = parameter_overview.get_parameter_overview(params, include_stats=False)
        indented = "\n".join(f"    {line}" for line in table.splitlines())
        self.text(0, "parameters", indented)
        count = parameter_overview.count_parameters(params)
        self.message(f"{count:,} parameters in {len(jax.tree.leaves(params))} arrays")

    def message(self, text: str) -> None:
        """Prints one line."""
        if self._speaks:
            clear = CLEAR_LINE if self._line_is_open else ""
            self._line_is_open = False
            self._print(f"{clear}{text}\n")

    def progress(
        self,
        step: int,
        num_steps: int,
        values: Mapping[str, float],
        *,
        steps_per_second: float,
        images_per_second: float,
    ) -> None:
        """Prints where training stands, in place on a terminal.

        Args:
            step: steps done.
            num_steps: steps in all.
            values: metrics of this step; the losses among them are shown.
            steps_per_second: speed since the last line; the time left follows from it.
            images_per_second: the same speed in images of the global batch.
        """
        if not self._speaks:
            return
        losses = [
            f"{name.removeprefix('loss/')} {value:.4g}"
            for name, value in values.items()
            if name.startswith("loss")
        ]
        parts = [
            f"{self._title} {step:,}/{num_steps:,} ({step / num_steps:.0%})".lstrip(),
            *losses,
            f"{steps_per_second:.3g} steps/s",
            f"{images_per_second:,.0f} images/s",
            f"{format_duration((num_steps - step) / steps_per_second)} left",
        ]
        line = "  ".join(parts)
        self._line_is_open = sys.stderr.isatty()
        self._print(f"{CLEAR_LINE}{line}" if self._line_is_open else f"{line}\n")

    def _print(self, text: str) -> None:
        print(text, end="", file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Prints one line to standard error, in process 0 only."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)


def format_duration(seconds: float) -> str:
    """A duration in its two largest units: `2d 03h`, `1h 06m`, `4m 05s`, `12s`."""
    seconds = round(seconds)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02}h"
    if hours:
        return f"{hours}h {minutes:02}m"
    return f"{minutes}m {seconds:02}s" if minutes else f"{seconds}s"


def read_scalars(
    directory: str | os.PathLike[str],
) -> dict[str, tuple[Int64[np.ndarray, " T"], Float64[np.ndarray, " T"]]]:
    """The curves that the event files of one directory hold.

    A run that was resumed has written a file at each start, and some steps twice: what
    was written last counts.

    Args:
      directory: of one stage, local or in a bucket; those below it are not read.

    Returns:
      Name to steps, ascending, and their values; nothing where there are no files.
    """
    files = epath.Path(directory).glob("*.tfevents.*")
    if not any(True for _ in files):
        return {}
    _quieten_tensorflow()
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    keep_all = {event_accumulator.TENSORS: 0}
    events = event_accumulator.EventAccumulator(os.fspath(directory), keep_all)
    events.Reload()
    curves = {}
    for name in events.Tags()[event_accumulator.TENSORS]:
        if events.SummaryMetadata(name).plugin_data.plugin_name != "scalars":
            continue
        latest = {
            event.step: float(tensor_util.make_ndarray(event.tensor_proto))
            for event in events.Tensors(name)
        }
        steps = np.array(sorted(latest), np.int64)
        curves[name] = steps, np.array([latest[int(step)] for step in steps])
    return curves


def _event_writer(directory: str | os.PathLike[str]) -> Any:
    _quieten_tensorflow()
    from clu import metric_writers

    return metric_writers.create_default_writer(os.fspath(directory))


def _quieten_tensorflow() -> None:
    """It talks about its build and its kernels unless told before its import."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def _encodable(text: str) -> str:
    """Without halves of surrogate pairs, which no event file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _profile(directory: str | os.PathLike[str], num_steps: int) -> Any:
    from clu import periodic_actions

    # The first steps compile and warm up.
    return periodic_actions.Profile(
        logdir=os.fspath(directory),
        num_profile_steps=num_steps,
        profile_duration_ms=None,
        first_profile=PROFILE_AFTER_STEPS,
        every_secs=None,
    )


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """TensorBoard's hparams hold numbers, booleans and strings only."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float):
            flat[f"{prefix}{name}"] = value
        else:
            flat[f"{prefix}{name}"] = _encodable(str(value))
    return flat
