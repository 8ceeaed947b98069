"""Training that does not end: what the process holds after minutes, or an hour.

    python tests/processes/load.py --config=configs/shapes_lt.py --minutes=60

Pre-trains as the main job does (its stage, loader, event files and checkpoints),
evaluates the validation images and saves a checkpoint every minute, and samples memory,
open files, threads, compilations and arrays meanwhile. The exit code is 1 if memory at
rest, after each evaluation, grows by a megabyte a minute, files, threads or processes
become more, or a program is compiled after the warm-up, which ends with the first
epoch, evaluation and minute.
"""

import contextlib
import dataclasses
import functools
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import growth
import jax
from absl import flags
from etils import epath

from vl_ltr_jax.commands import exits
from vl_ltr_jax.commands import flags as commands_flags
from vl_ltr_jax.commands.command import Command
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.evaluate import split
from vl_ltr_jax.logs import console
from vl_ltr_jax.run import embedding, head_training
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.runtime import compilation_cache
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.stages import pretrain
from vl_ltr_jax.train import stage

_MINUTES = flags.DEFINE_float(
    "minutes", 5.0, "How long, after the warm-up.", lower_bound=4.0
)
_SAMPLES = flags.DEFINE_string("samples", "", "CSV file to keep the samples in.")
_ENDLESS = 10**6  # epochs
COMMAND = Command(
    "tests/processes/load.py",
    "Measures whether memory, files and threads of a training process grow.",
    (("on the embedded data set", "--config=configs/shapes_lt.py --minutes=5"),),
)


@dataclasses.dataclass(frozen=True)
class Times:
    """How long, and how often, in seconds.

    Attributes:
      measured: after the warm-up.
      warm_up: at the least; the first epoch comes before its end too.
      between_evaluations: which also is the interval of checkpoints.
      between_samples: of memory and the rest.
    """

    measured: float = 300.0
    warm_up: float = 60.0
    between_evaluations: float = 60.0
    between_samples: float = 5.0


class _Enough(Exception):
    """The time is up."""


class Evaluation:
    """The validation images by zero-shot and kNN, with the towers of the moment."""

    def __init__(self, run: Run) -> None:
        """Compiles nothing yet."""
        self._run, inputs = run, run.inputs
        scores = split.make_scores(
            run.model,
            None,
            run.normalize,
            run.config.evaluate,
            inputs.num_classes,
            run.mesh,
        )
        self._count = split.make_count(scores, inputs.num_classes)
        self._encode_text = jax.jit(run.encode_text)

    def __call__(self, state: Any, step: int) -> dict[str, float]:
        """Top-1 of each head, in percent."""
        del step
        run, inputs = self._run, self._run.inputs
        towers = {"params": state.params}
        sentences = embedding.embed_sentences(
            functools.partial(self._encode_text, towers),
            inputs.tokens,
            run.mesh,
            run.config.evaluate.batch_size,
        )
        texts = {
            "sentences": sentences,
            "sentence_labels": inputs.corpus.labels,
            "class_texts": run.class_texts(sentences),
        }
        frozen = split.Frozen(
            towers, **{name: run.replicate(array) for name, array in texts.items()}
        )
        batches = run.eval_batches(inputs.data.val, "evaluate")
        sums, _ = split.evaluate_split(self._count, frozen, batches, run.mesh)
        return {
            f"accuracy/{head}": split.summarise(
                found, inputs.data.train_counts, "argmax"
            )["top1"]
            for head, found in sums.items()
        }


def measure(
    config: Config, workdir: epath.Path, times: Times, path: Path | None = None
) -> list[growth.Sample]:
    """Trains until the time is up.

    Args:
      config: its pre-training is made as long as needed.
      workdir: an empty directory.
      times: how long, and how often.
      path: of a CSV file that gets all samples.

    Returns:
      The samples after the warm-up, one of them at rest after each evaluation.
    """
    with growth.Meter(times.between_samples, path) as meter:
        interval = _Interval(times.between_evaluations, meter)
        endless = dataclasses.replace(config.pretrain, epochs=_ENDLESS)
        saving = dataclasses.replace(config.log, checkpoint_every_steps=interval)
        config = dataclasses.replace(config, pretrain=endless, log=saving)
        run = Run(config, workdir, run_inputs.read(config))
        watched = _Watched(run, meter, times)
        with contextlib.suppress(_Enough):
            job = _WatchedJob(**vars(pretrain.pretraining(run)))
            job.watch(watched, interval)
            stage.train(job, run.mesh, config)
    return [sample for sample in meter.samples if sample.seconds >= watched.warm_at]


class _Interval(int):
    """As many steps as the clock says: it divides one when the time has come.

    The loop asks at each step, whose number the meter gets.
    """

    _seconds: float
    _due_at: float
    _meter: growth.Meter
    _step = -1

    def __new__(cls, seconds: float, meter: growth.Meter) -> "_Interval":
        interval = super().__new__(cls, 1)
        interval._seconds, interval._meter = seconds, meter
        interval._due_at = time.monotonic() + seconds
        return interval

    def __deepcopy__(self, memo: Any) -> "_Interval":
        return self  # with the configuration that is logged

    def __rmod__(self, step: int) -> int:
        self._meter.steps = step
        if time.monotonic() >= self._due_at:
            self._due_at, self._step = time.monotonic() + self._seconds, step
        return int(step != self._step)


class _WatchedJob(stage.Job):
    """A job that evaluates between its steps."""

    def watch(self, watched: "_Watched", interval: int) -> None:
        """Sets what evaluates, and how often."""
        object.__setattr__(self, "_watched", (watched, interval))

    def compiled(self, *arguments: Any) -> Any:
        step = super().compiled(*arguments)
        return _WatchedStep(step, *self._watched)  # type: ignore[attr-defined]


class _WatchedStep:
    """A compiled step that evaluates the state it gets, when that is due."""

    def __init__(self, step: Any, watched: "_Watched", interval: int) -> None:
        self._step, self._watched, self._interval = step, watched, interval
        self._number, self.rates = 0, step.rates

    def __call__(self, state: Any, batch: Any) -> Any:
        if self._number and self._number % self._interval == 0:
            with jax.transfer_guard("allow"):
                self._watched.evaluate(state, self._number)
        self._number += 1
        return self._step(state, batch)


class _Watched:
    """An evaluation that counts itself, and ends training when the time is up."""

    def __init__(self, run: Run, meter: growth.Meter, times: Times) -> None:
        self.warm_at = math.inf
        self._evaluation, self._meter, self._times = Evaluation(run), meter, times
        plan = head_training.plan_of(run, run.config.pretrain)
        self._epoch = plan.num_steps // run.config.pretrain.epochs  # in steps

    def evaluate(self, state: Any, step: int) -> None:
        self._evaluation(state, step)
        self._meter.evaluations += 1
        now = self._meter.seconds()
        held = self._meter.rest()
        print(
            f"{now / 60:.1f} min, step {step:,}: {held.resident_mb:,.1f} MB at rest, "
            f"{held.open_files} files, {held.threads} threads, "
            f"{held.compilations} programs",
            flush=True,
        )
        if now >= self._times.warm_up and step >= self._epoch:
            self.warm_at = min(self.warm_at, now)
        if now >= self.warm_at + self._times.measured:
            raise _Enough


def run(argv: Sequence[str]) -> None:
    """Prints what is held at rest, then what all samples say, and what that means."""
    del argv
    with exits.refusing():
        config = commands_flags.checked_config(COMMAND)
        meshes.devices()
        console.be_quiet()  # of the time that endless training has left
        path = Path(_SAMPLES.value) if _SAMPLES.value else None
        with tempfile.TemporaryDirectory() as directory:
            workdir = epath.Path(directory)
            compilation_cache.write_to(config.mesh.compilation_cache, workdir)
            times = Times(measured=60 * _MINUTES.value)
            samples = measure(config, workdir, times, path)
        findings = growth.judge(samples)
    minutes = (samples[-1].seconds - samples[0].seconds) / 60
    print(f"{len(samples)} samples in {minutes:.1f} minutes")
    print(growth.table(samples))
    print(growth.table([sample for sample in samples if sample.at_rest], "at rest"))
    for finding in findings:
        print(f"{'met    ' if finding.met else 'NOT MET'}  {finding.told}")
    if not all(finding.met for finding in findings):
        sys.exit(1)


if __name__ == "__main__":
    commands_flags.start(run, COMMAND)
