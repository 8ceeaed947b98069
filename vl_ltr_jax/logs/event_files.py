"""What a run writes for TensorBoard, and a training stage's line of progress.

CLU writes the event files, and with it come TensorFlow and TensorBoard: all are
imported here only, inside the functions that need them. Process 0 speaks; in every
other process each method does nothing.
"""

import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Float64, Int64, UInt8

from vl_ltr_jax.logs import console, messages

PROFILE_AFTER_STEPS = 5
_ROOM = 2**18  # bytes
RESULT = "result"  # below a stage's directory: what the HPARAMS tab shows


class Logs:
    """The writers of one stage; a context manager that flushes and closes them."""

    _profile: Any = None
    _line: console.Progress | None = None
    _first_step = 0

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        title: str = "",
        profile_steps: int = 0,
        plain_seconds: float = console.PLAIN_SECONDS,
    ):
        """Opens an event file.

        Args:
            directory: where the event file goes, usually `workdir/STAGE`.
            title: begins each progress line, usually the name of the stage.
            profile_steps: how many steps :meth:`after_step` profiles, once.
            plain_seconds: between progress lines where no terminal is.

        Attributes:
            losses: of the last :meth:`progress`.
        """
        self._directory = os.fspath(directory)
        self._title, self._plain_seconds = title, plain_seconds
        self.losses: dict[str, float] = {}
        self._speaks = jax.process_index() == 0
        self._events = _Events(self._directory, self) if self._speaks else None
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
        if self._line is not None:
            self._line.__exit__(kind, error, traceback)
        self._profile_at(sys.maxsize)  # ends a profile that is being taken
        if self._events is not None:
            self._events.close()

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes numbers or 0-d arrays under their names."""
        if self._events is not None:
            numbers = {name: float(value) for name, value in values.items()}
            self._events.write("scalars", step, numbers)

    def after_step(self, step: int) -> None:
        """To be called after each step: profiles some of them, if asked to.

        Args:
            step: steps since :meth:`expect`, this one included.
        """
        self._profile_at(step)
        done = self._first_step + step - 1  # this one may be on its way
        if self._line is not None and done > self._line.n:
            self._line.at(done)

    def text(self, step: int, name: str, text: str) -> None:
        """Writes Markdown."""
        if self._events is not None:
            self._events.write("texts", step, {name: _encodable(text)})

    def images(
        self, step: int, name: str, images: UInt8[np.ndarray, "K height width 3"]
    ) -> None:
        """Writes K pictures under one name, which TensorBoard shows side by side."""
        if self._events is not None:
            self._events.write("images", step, {name: images})

    def histogram(self, step: int, name: str, values: Float[np.ndarray, " N"]) -> None:
        """Writes how values are distributed; those that are not finite are left out."""
        if self._events is not None:
            finite = values[np.isfinite(values)]
            self._events.write("histograms", step, {name: finite})

    def result(
        self, run: str, configuration: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> None:
        """Writes the row of a run in the HPARAMS tab.

        TensorBoard takes every scalar of the row's directory for a metric, and those of
        the directories below: it has one of its own.

        Args:
            run: what the row is called; another of this name is averaged with it.
            configuration: nested; its keys are joined by dots.
            metrics: by which runs are compared.
        """
        if self._events is None:
            return
        import tensorflow
        from tensorboard.plugins.hparams import api

        directory = os.path.join(self._directory, RESULT)
        try:
            writer = tensorflow.summary.create_file_writer(directory)
            with contextlib.closing(writer), writer.as_default(step=0):
                # CLU's own call has no place for the name.
                api.hparams(_flatten(configuration), trial_id=_encodable(run))
                for name, value in metrics.items():
                    tensorflow.summary.scalar(name, value)
        except Exception as error:  # TensorFlow raises many kinds
            self.warning(f"the row of the HPARAMS tab is not written: {_said(error)}")

    def parameters(self, params: Mapping[str, Any]) -> None:
        """Writes a table of the parameters as text and says their number.

        Args:
            params: a nested dict of arrays or `ShapeDtypeStruct`s.
        """
        if self._events is None:
            return
        from clu import parameter_overview

        table = parameter_overview.get_parameter_overview(params, include_stats=False)
        indented = "\n".join(f"    {line}" for line in table.splitlines())
        self.text(0, "parameters", indented)
        # A parameter without axes makes theirs a float.
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
            self._line = console.Progress(
                self._title,
                num_steps,
                "steps",
                done=first_step,
                plain_seconds=self._plain_seconds,
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
        """Tells where training stands, see :class:`console.Progress`.

        Args:
            step: steps done.
            num_steps: steps in all.
            values: metrics of this step; the losses among them are shown.
            steps_per_second: the speed, from which the time left follows.
            images_per_second: the same speed in images of the global batch.
        """
        if not self._speaks:
            return
        if self._line is None:
            self.expect(0, num_steps)
        losses = {
            name.removeprefix("loss/"): value
            for name, value in values.items()
            if name.startswith("loss")
        }
        total = losses.pop("total", None)
        self.losses = losses if total is None else {"loss": total, **losses}
        if self._line is not None:
            told = [f"{name} {value:.4g}" for name, value in self.losses.items()]
            images = f"{messages.format_rate(images_per_second)} images/s"
            self._line.at(step, rate=steps_per_second, details=[images, *told])

    def _profile_at(self, step: int) -> None:
        if self._profile is None:
            return
        try:
            self._profile(step)
        except Exception as error:  # JAX's profiler raises many kinds
            self._profile = None
            self.warning(f"the profile is not written: {_said(error)}")


class _Events:
    """CLU's writer, in a thread: a disk may be slow, and it may be full.

    CLU's own thread keeps its errors to raise them in training.
    """

    def __init__(self, directory: str, logs: Logs) -> None:
        _quieten_tensorflow()
        from clu import metric_writers

        self._directory, self._logs = directory, logs
        self._open: Callable[[], Any] = functools.partial(
            metric_writers.create_default_writer, directory, asynchronous=False
        )
        self._writer: Any = None
        self._failed = False
        self._thread = ThreadPoolExecutor(1, "metrics")

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Writes a little later what CLU's `write_KIND` takes, if it can be."""
        self._thread.submit(self._write, kind, step, values)

    def close(self) -> None:
        """Waits for all that is on its way."""
        self._thread.submit(self._close)
        self._thread.shutdown()

    def _write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        try:
            if self._failed and not _has_room(self._directory):
                return
            if self._writer is None:
                self._writer = self._open()
            getattr(self._writer, f"write_{kind}")(step, values)
            if self._failed:
                self._writer.flush()
                self._failed = False
                self._logs.message("metrics are written again")
        except Exception as error:
            self._lose(error)

    def _close(self) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
        except Exception as error:
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        """Drops the writer: nothing can be read behind what it wrote in part."""
        writer, self._writer = self._writer, None
        with contextlib.suppress(Exception):
            if writer is not None:
                writer.close()
        if not self._failed:
            self._failed = True
            self._logs.warning(
                f"metrics are not written: {_said(error)}; the last few before are lost"
                " too; training goes on, and writes them again when it can"
            )


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
        {event_accumulator.TENSORS: 0},  # all, in place of a sample
        purge_orphaned_data=False,  # files of one second are not read in their order
    )
    events.Reload()
    curves = {}
    for name in events.Tags()[event_accumulator.TENSORS]:
        if events.SummaryMetadata(name).plugin_data.plugin_name != "scalars":
            continue
        latest = {
            event.step: float(tensor_util.make_ndarray(event.tensor_proto))
            for event in sorted(events.Tensors(name), key=lambda one: one.wall_time)
        }
        steps = np.array(sorted(latest), np.int64)
        curves[name] = steps, np.array([latest[int(step)] for step in steps])
    return curves


def _has_room(directory: str) -> bool:
    """Whether a disk takes many metrics: a try of TensorFlow's would leave a file."""
    if "://" in directory:
        return True
    try:
        os.makedirs(directory, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(_ROOM))
        return True
    except OSError:
        return False


def _quieten_tensorflow() -> None:
    """It talks about its build and its kernels unless told before its import."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":  # JAX has set this
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def _said(error: Exception) -> str:
    """The file and the operating system's words, without TensorFlow's around them."""
    return str(error).partition("\n")[0].rpartition("}} ")[2] or type(error).__name__


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
