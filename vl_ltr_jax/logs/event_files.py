"""TensorBoard's event files of a stage, and a training stage's line of progress.

CLU writes the event files, and imports TensorFlow and TensorBoard: all are imported
here only, inside the functions that need them. Process 0 speaks; in every other
process each method does nothing.
"""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Float64, Int64, UInt8
from tqdm import tqdm

from vl_ltr_jax.logs import console, messages

PROFILE_AFTER_STEPS = 5  # the first steps compile and warm up
_PROBE_BYTES = 2**18
_LINE = "{desc} {n_fmt}/{total_fmt} ({percentage:.0f}%)  {remaining} left"
RESULT = "result"  # below a stage's directory: the row of the HPARAMS tab


class Logs:
    """The writers of one stage; a context manager that flushes and closes them.

    CLU's writer runs in a thread: a disk may be slow, and it may be full. CLU's own
    thread would raise its errors in training.

    Attributes:
      losses: of the last :meth:`progress`.
    """

    _thread: ThreadPoolExecutor | None = None
    _writer: Any = None
    _failed = False
    _profile: Any = None
    _bar: tqdm | None = None
    _first_step = _done = 0
    _steps_per_second: float | None = None
    _details = ""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        title: str = "",
        profile_steps: int = 0,
        plain_seconds: float = 30.0,
    ):
        """Opens an event file.

        Args:
          directory: of the event file, usually `workdir/STAGE`.
          title: begins each line, usually the name of the stage.
          profile_steps: number of steps that :meth:`after_step` profiles, once.
          plain_seconds: time between progress lines without a terminal.
        """
        self._directory = os.fspath(directory)
        self._title, self._plain_seconds = title, plain_seconds
        self._printed = time.monotonic()
        self.losses: dict[str, float] = {}
        self._speaks = jax.process_index() == 0
        if self._speaks:
            _quieten_tensorflow()
            self._thread = ThreadPoolExecutor(1, "metrics")
        if self._speaks and profile_steps:
            from clu import periodic_actions

            self._profile = periodic_actions.Profile(
                logdir=self._directory,
                num_profile_steps=profile_steps,
                profile_duration_ms=None,
                first_profile=PROFILE_AFTER_STEPS,
                every_secs=None,
            )

    def __enter__(self) -> "Logs":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
        self._profile_at(sys.maxsize)  # ends a profile that is being taken
        if self._thread is not None:
            self._thread.submit(self._attempt, self._close)
            self._thread.shutdown()

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes numbers or 0-d arrays under their names."""
        self._write("scalars", step, {name: float(v) for name, v in values.items()})

    def after_step(self, step: int) -> None:
        """Shows progress after each step, and profiles some steps on request.

        Args:
          step: number of steps since :meth:`expect`, this one included.
        """
        self._profile_at(step)
        self._show(self._first_step + step - 1)  # this one may be on its way

    def text(self, step: int, name: str, text: str) -> None:
        """Writes Markdown."""
        self._write("texts", step, {name: _encodable(text)})

    def images(
        self, step: int, name: str, images: UInt8[np.ndarray, "K height width 3"]
    ) -> None:
        """Writes K pictures under one name; TensorBoard shows them side by side."""
        self._write("images", step, {name: images})

    def histogram(self, step: int, name: str, values: Float[np.ndarray, " N"]) -> None:
        """Writes the distribution of values, without those that are not finite."""
        self._write("histograms", step, {name: values[np.isfinite(values)]})

    def result(
        self, run: str, configuration: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> None:
        """Writes the row of a run in the HPARAMS tab.

        Rows of one name are averaged. The row has a directory of its own: TensorBoard
        takes every scalar there and below for a metric.
        """
        if not self._speaks:
            return
        import tensorflow
        from tensorboard.plugins.hparams import api

        row = {
            key: value if isinstance(value, int | float) else _encodable(str(value))
            for key, value in configuration.items()
        }
        try:
            directory = os.path.join(self._directory, RESULT)
            writer = tensorflow.summary.create_file_writer(directory)
            with contextlib.closing(writer), writer.as_default(step=0):
                # CLU's own call has no place for the name.
                api.hparams(row, trial_id=_encodable(run))
                for name, value in metrics.items():
                    tensorflow.summary.scalar(name, value)
        except Exception as error:  # TensorFlow raises many kinds
            self.warning(f"the row of the HPARAMS tab is not written: {_reason(error)}")

    def parameters(self, params: Mapping[str, Any]) -> None:
        """Writes a table of the parameters as text, and prints their number."""
        if not self._speaks:
            return
        from clu import parameter_overview

        table = parameter_overview.get_parameter_overview(params, include_stats=False)
        indented = "\n".join(f"    {line}" for line in table.splitlines())
        self.text(0, "parameters", indented)
        # A parameter without axes makes their number a float.
        count = int(parameter_overview.count_parameters(params))
        self.message(f"{count:,} parameters in {len(jax.tree.leaves(params))} arrays")

    def message(self, text: str) -> None:
        """Prints one line, after the title."""
        if self._speaks:
            console.say(text, stage=self._title)

    def warning(self, text: str) -> None:
        """Prints one line that quiet mode shows too."""
        if self._speaks:
            console.warn(f"{self._title}: {text}" if self._title else text)

    def expect(self, first_step: int, num_steps: int) -> None:
        """Shows the line of progress before the first step, which compiles."""
        if self._speaks:
            self._first_step = first_step
            self._bar = console.progress_bar(
                self._title, num_steps, "steps", done=first_step
            )

    def progress(
        self,
        step: int,
        num_steps: int,
        values: Mapping[str, float],
        *,
        steps_per_second: float,
        images_per_second: float,
    ) -> None:
        """Shows progress, time left, images of the global batch a second, and losses.

        Args:
          step: number of steps done.
          num_steps: number of steps in all.
          values: metrics of this step; the losses among them are shown.
          steps_per_second: speed that gives the time left.
          images_per_second: the same speed in images.
        """
        if not self._speaks:
            return
        if self._bar is None:
            self.expect(0, num_steps)
        losses = {
            name.removeprefix("loss/"): value
            for name, value in values.items()
            if name.startswith("loss")
        }
        total = losses.pop("total", None)
        self.losses = losses if total is None else {"loss": total, **losses}
        details = [f"{messages.format_rate(images_per_second)} images/s"]
        details += [f"{name} {value:.4g}" for name, value in self.losses.items()]
        self._steps_per_second, self._details = steps_per_second, "  ".join(details)
        self._show(step)

    def _show(self, done: int) -> None:
        """Moves the bar, or prints a line in a log file if it is time."""
        if (bar := self._bar) is None:
            return
        done = self._done = max(done, self._done)  # metrics arrive late
        bar.set_postfix_str(self._details, refresh=False)
        bar.update(done - bar.n)
        since = time.monotonic() - self._printed
        if console.is_terminal() or since < self._plain_seconds:
            return
        self._printed += since
        line = tqdm.format_meter(
            done,
            bar.total,
            elapsed=0,
            rate=self._steps_per_second,
            prefix=self._title,
            bar_format=_LINE,
        )
        console.say(f"{line}  {self._details}".rstrip())

    def _write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        if self._thread is not None:
            self._thread.submit(self._attempt, self._write_now, kind, step, values)

    def _attempt(self, write: Callable[..., None], *arguments: Any) -> None:
        try:
            write(*arguments)
        except Exception as error:  # TensorFlow raises many kinds
            # Dropped: a reader stops at an event that was written in part.
            writer, self._writer = self._writer, None
            with contextlib.suppress(Exception):
                if writer is not None:
                    writer.close()
            if not self._failed:
                self._failed = True
                self.warning(
                    f"metrics are not written: {_reason(error)}; the last few before "
                    "are lost too; training goes on, and writes them again when it can"
                )

    def _write_now(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        from clu import metric_writers

        if self._failed and not _has_room(self._directory):
            return
        self._writer = self._writer or metric_writers.create_default_writer(
            self._directory, asynchronous=False
        )
        getattr(self._writer, f"write_{kind}")(step, values)
        if self._failed:
            self._writer.flush()
            self._failed = False
            self.message("metrics are written again")

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _profile_at(self, step: int) -> None:
        if self._profile is None:
            return
        try:
            self._profile(step)
        except Exception as error:  # JAX's profiler raises many kinds
            self._profile = None
            self.warning(f"the profile is not written: {_reason(error)}")


def read_scalars(
    directory: str | os.PathLike[str],
) -> dict[str, tuple[Int64[np.ndarray, " T"], Float64[np.ndarray, " T"]]]:
    """Reads the curves in the event files of one directory.

    A resumed run has written a file at each start, and some steps twice: the value
    written last counts.

    Args:
      directory: of one stage, local or in a bucket, without those below it.

    Returns:
      Name to steps, ascending, and their values; empty without files.
    """
    _quieten_tensorflow()
    import tensorflow
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    path, files = os.fspath(directory), tensorflow.io.gfile
    # Listed, since a glob takes characters of the path itself for a pattern.
    if not files.isdir(path) or not any(".tfevents." in n for n in files.listdir(path)):
        return {}
    events = event_accumulator.EventAccumulator(
        path,
        {event_accumulator.TENSORS: 0},  # all: the default is a sample
        purge_orphaned_data=False,  # files of one second are not read in their order
    )
    events.Reload()
    curves = {}
    for name in events.Tags()[event_accumulator.TENSORS]:
        if events.SummaryMetadata(name).plugin_data.plugin_name != "scalars":
            continue
        latest = {
            event.step: float(tensor_util.make_ndarray(event.tensor_proto))
            for event in sorted(events.Tensors(name), key=lambda event: event.wall_time)
        }
        steps = np.array(sorted(latest), np.int64)
        curves[name] = steps, np.array([latest[int(step)] for step in steps])
    return curves


def _has_room(directory: str) -> bool:
    """Returns True if a disk has room; a try of TensorFlow's would leave a file."""
    if "://" in directory:
        return True
    try:
        os.makedirs(directory, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(_PROBE_BYTES))
        return True
    except OSError:
        return False


def _quieten_tensorflow() -> None:
    """Switches off lines on TensorFlow's build and kernels, before its import."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":  # JAX has set this
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def _reason(error: Exception) -> str:
    """Returns the file and the operating system's words, without TensorFlow's."""
    return str(error).partition("\n")[0].rpartition("}} ")[2] or type(error).__name__


def _encodable(text: str) -> str:
    """Replaces halves of surrogate pairs, which no event file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
