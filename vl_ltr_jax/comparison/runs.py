"""Runs of several systems on one data set."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from vl_ltr_jax import systems
from vl_ltr_jax.comparison import tables
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import settings
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.evaluate.split import NonFiniteScoreError
from vl_ltr_jax.logs import console
from vl_ltr_jax.logs.messages import nearest
from vl_ltr_jax.report import write
from vl_ltr_jax.run import depends
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.feature_views import NonFiniteFeatureError
from vl_ltr_jax.run.run import Run
from vl_ltr_jax.stages import pipeline
from vl_ltr_jax.storage import lock
from vl_ltr_jax.storage import workdir as workdirs
from vl_ltr_jax.storage.artifact import Artifact, ArtifactError, write_whole, written

_FILES = ("compare.md", "compare.csv", "compare.svg")
_DIVERGED = (FloatingPointError, NonFiniteScoreError, NonFiniteFeatureError)


def methods_of(words: Sequence[str]) -> list[str]:
    """Returns method names, with groups unfolded, each once.

    Raises:
      ConfigError: a name is unknown, or there is no name.
    """
    known = {**dict.fromkeys(tables.GROUPS), **systems.METHODS}
    for word in words:
        if word not in known:
            near = nearest(word.lower(), known)
            raise configs.ConfigError(f"--methods={word}: unknown{near}")
    if not words:
        raise configs.ConfigError("--methods=: no method. Name one, or 'all'.")
    names = [name for word in words for name in tables.GROUPS.get(word, (word,))]
    return list(dict.fromkeys(names))


class Comparison:
    """Runs under one directory, made from one configuration.

    Each is in `workdir/METHOD/seed_N`. Data sets and weights are read once for all
    methods that share them.
    """

    def __init__(self, config: Config, workdir: epath.Path) -> None:
        """Takes VL-LTR's configuration; those of all methods are made from it."""
        begun = next(iter(workdir.glob("*/seed_*/config.json")), None)
        self.config = depends.settled(config, begun.parent if begun else workdir)
        self.workdir = workdir
        self._inputs: dict[Any, run_inputs.RunInputs] = {}

    def check(self, methods: Sequence[str], num_seeds: int) -> None:
        """Checks every run before the first begins.

        Args:
          methods: keys of `systems.METHODS`.
          num_seeds: seeds 0 to num_seeds - 1.

        Raises:
          ConfigError: a method contradicts the configuration.
          ArtifactError: the directory holds runs of another configuration.
        """
        if self.config.method != "vl_ltr":
            raise configs.ConfigError(
                f"method={self.config.method!r}: compare makes every method from "
                "VL-LTR's configuration. Name it in --methods."
            )
        if num_seeds < 1:
            raise configs.ConfigError(f"--seeds={num_seeds}: at least 1 expected.")
        for name in methods:
            config = self.configured(name, 0)
            try:
                configs.check(config)
                configs.check_devices(config, jax.device_count())
                _check_measured(config)
            except configs.ConfigError as error:
                raise configs.ConfigError(f"--methods={name}: {error}") from error
        workdirs.check_free(self.workdir, _FILES, [self._artifact.directory.name])
        self._artifact.check()
        for name in methods:
            for seed in range(num_seeds):
                config, directory = self.configured(name, seed), self._place(name, seed)
                pipeline.check(config, directory, self.inputs(config))

    def run(self, methods: Sequence[str], num_seeds: int) -> str:
        """Runs what is not finished, writes tables and figure, returns `compare.md`.

        A method that diverges loses its row, not those of the others.

        Args:
          methods: keys of `systems.METHODS`, checked by :meth:`check`.
          num_seeds: seeds 0 to num_seeds - 1.

        Raises:
          ArtifactError: results on disk are damaged, or tables cannot be written.
          WorkdirError: another comparison is at work in the directory.
          NonFiniteScoreError: methods diverged; raised at the end.
        """
        diverged: dict[str, str] = {}
        with lock.sole_user(self.workdir):
            if jax.process_index() == 0:
                self._artifact.begin()
            for seed in range(num_seeds):
                for name in methods:
                    title = f"{systems.METHODS[name].title}, seed {seed}"
                    # One process looks: file systems may show the others less.
                    finished = np.asarray(self._finished(name, seed))
                    if multihost_utils.broadcast_one_to_all(finished):
                        console.say("finished before", stage=title)
                        continue
                    console.say("starts", stage=title)
                    try:
                        self._run(name, seed)
                    except _DIVERGED as error:
                        diverged[title] = str(error)
                        console.warn(f"{title}: has diverged: {error}")
                    self._write(with_figure=False)
                self._write(with_figure=True)
        multihost_utils.sync_global_devices("tables are written")
        if diverged:
            rows = "\n  ".join(f"{title}: {error}" for title, error in diverged.items())
            raise NonFiniteScoreError(
                f"{self.workdir / 'compare.md'} lacks diverged methods:\n  {rows}"
            )
        return (self.workdir / "compare.md").read_text()

    def configured(self, name: str, seed: int) -> Config:
        """Returns the configuration of a method with a seed."""
        seeded = dataclasses.replace(self.config, seed=seed)
        return systems.METHODS[name].configure(seeded)

    def inputs(self, config: Config) -> run_inputs.RunInputs:
        """Returns the inputs of a configuration, read once for all that share them."""
        key = (config.data, config.model, config.init)
        if key not in self._inputs:
            self._inputs[key] = run_inputs.read(config)
        return self._inputs[key]

    @property
    def _artifact(self) -> Artifact:
        values = {
            key: value
            for key, value in settings.flatten(self.config).items()
            if key != "seed" and depends.matters(key)
        }
        return Artifact(self.workdir / "compare", values, depends.DEFAULTS)

    def _place(self, name: str, seed: int) -> epath.Path:
        return self.workdir / name / f"seed_{seed}"

    def _finished(self, name: str, seed: int) -> bool:
        files = ("results.json", "report.md", "evaluate/artifact.json")
        return all((self._place(name, seed) / file).exists() for file in files)

    def _run(self, name: str, seed: int) -> None:
        config, directory = self.configured(name, seed), self._place(name, seed)
        inputs = self.inputs(config)
        if jax.process_index() == 0:
            share(config, directory, self.workdir.glob(f"*/seed_{seed}"), inputs)
        multihost_utils.sync_global_devices("stages are shared")
        pipeline.check(config, directory, inputs)
        run = Run(config, directory, inputs)
        write.write(run, pipeline.run(run), with_page=False)
        jax.clear_caches()  # programs of a finished run are of no use to the next

    def _rows(self) -> list[tables.Row]:
        """Returns a row for each finished run, method by method."""
        rows = []
        for name in systems.METHODS:
            seeds = [
                int(path.name.removeprefix("seed_"))
                for path in self.workdir.glob(f"{name}/seed_*")
                if path.name.removeprefix("seed_").isdigit()
            ]
            rows += [
                tables.row_of(name, seed, self._place(name, seed))
                for seed in sorted(seeds)
                if self._finished(name, seed)
            ]
        return rows

    def _write(self, *, with_figure: bool) -> None:
        """Writes tables and figure of all finished runs, on one process."""
        if jax.process_index() != 0:
            return
        rows, backbone = self._rows(), self.config.model.backbone
        text = tables.markdown(rows, self.config.data.name, backbone)
        write_whole(self.workdir / "compare.md", text)
        write_whole(self.workdir / "compare.csv", tables.csv_of(rows, backbone))
        if with_figure and rows:
            counts = self.inputs(self.config).data.train_counts
            with written(self.workdir / "compare.svg") as file:
                file.write(tables.figure(rows, counts))


def _check_measured(config: Config) -> None:
    """Raises ConfigError if no evaluated head would fill this method's row."""
    recipe, tuned = systems.recipe_of(config), config.finetune
    measured = {
        "lgr": bool(tuned.epochs) and tuned.head == "lgr",
        "fc": bool(tuned.epochs) and tuned.head == "fc",
        "knn": config.evaluate.knn,
        "zero_shot": config.evaluate.zero_shot,
    }
    if not measured.get(recipe.result, True) or config.init.vl_ltr:
        raise configs.ConfigError(
            f"finetune.epochs={tuned.epochs}, finetune.head={tuned.head!r}, "
            f"init.vl_ltr={config.init.vl_ltr!r}: nothing would measure its head "
            f"{recipe.result!r}. Leave the method out, or change the keys."
        )


def share(
    config: Config,
    directory: epath.Path,
    runs: Iterable[epath.Path],
    inputs: run_inputs.RunInputs,
) -> None:
    """Takes over finished stages that another method ran with the same settings.

    One that was begun here gives way to a finished one. After a stage that has to be
    made, nothing is taken: it would belong to another run.

    Args:
      config: configuration of the run.
      directory: its directory.
      runs: directories of other methods with the same seed.
      inputs: inputs of the run.

    Raises:
      WorkdirError: files cannot be copied.
    """
    sources = list(runs)
    for stage in pipeline.planned(config, inputs):
        target = depends.artifact(config, directory, stage, inputs)
        if target.finished:
            continue
        candidates = [depends.artifact(config, run, stage, inputs) for run in sources]
        source = next(filter(_is_sound, candidates), None)
        if source is None:
            break
        partial = directory / f"{stage}.partial"
        try:
            for path in (partial, target.directory):
                if path.exists():
                    path.rmtree()
            _copy(source.directory, partial)
            partial.rename(target.directory)
        except OSError as error:
            raise workdirs.WorkdirError(
                f"{source.directory}: cannot be copied to {target.directory} ({error})."
            ) from error


def _is_sound(artifact: Artifact) -> bool:
    """Returns True if a stage is finished, with the expected settings."""
    if not artifact.finished:
        return False
    try:
        artifact.check()
    except ArtifactError:
        return False
    return True


def _copy(source: epath.Path, target: epath.Path) -> None:
    """Copies a directory; on a local disk large files become hard links.

    Arrays and checkpoints of a finished stage are never written again. The small files
    that a person might edit are copied.
    """
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_dir():
            _copy(path, target / path.name)
            continue
        if path.suffix != ".json" and "://" not in os.fspath(path):
            try:
                os.link(path, target / path.name)
                continue
            except OSError:  # a file system without hard links
                pass
        path.copy(target / path.name)
