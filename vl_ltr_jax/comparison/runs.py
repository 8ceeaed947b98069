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


def methods_of(given: Sequence[str]) -> list[str]:
    """Method names, with groups unfolded, each once.

    Raises:
      ConfigError: for an unknown name, or none.
    """
    known = {**dict.fromkeys(tables.GROUPS), **systems.METHODS}
    for name in given:
        if name not in known:
            near = nearest(name.lower(), known)
            raise configs.ConfigError(f"--methods: {name!r} is unknown{near}")
    names = [name for word in given for name in tables.GROUPS.get(word, (word,))]
    if not names:
        raise configs.ConfigError("--methods names no method")
    return list(dict.fromkeys(names))


class Comparison:
    """Runs under one directory, made from one configuration.

    Each is in `workdir/METHOD/seed_N`. Data sets and weights that methods have in
    common are read once.
    """

    def __init__(self, config: Config, workdir: epath.Path) -> None:
        """Binds VL-LTR's configuration to the directory."""
        self.config, self.workdir = config, workdir
        self._read: dict[Any, run_inputs.RunInputs] = {}

    def check(self, methods: Sequence[str], num_seeds: int) -> None:
        """Checks every run before the first begins.

        Args:
          methods: keys of `systems.METHODS`.
          num_seeds: seeds 0 to num_seeds - 1.

        Raises:
          ConfigError: naming the method and what is wrong.
          ArtifactError: if the directory holds runs of another configuration.
        """
        if self.config.method != "vl_ltr":
            raise configs.ConfigError(
                f"method={self.config.method!r}: every method is made from VL-LTR's "
                "configuration; leave it to --methods"
            )
        if num_seeds < 1:
            raise configs.ConfigError(f"--seeds={num_seeds}: at least 1")
        for name in methods:
            changed = self.configured(name, 0)
            try:
                configs.check(changed)
                configs.check_devices(changed, jax.device_count())
                systems.check(changed)
                _check_measured(changed)
            except configs.ConfigError as error:
                raise configs.ConfigError(f"--methods={name}: {error}") from error
        workdirs.check_free(self.workdir, _FILES, [self._made_of.directory.name])
        self._made_of.check()
        for name in methods:
            for seed in range(num_seeds):
                changed = self.configured(name, seed)
                pipeline.check(changed, self._directory(name, seed), self.read(changed))

    def run(self, methods: Sequence[str], num_seeds: int) -> str:
        """Runs what is not there yet, and writes the tables and the figure.

        A method that diverges loses its line, not those of the others.

        Args:
          methods: keys of `systems.METHODS`, which :meth:`check` has accepted.
          num_seeds: seeds 0 to num_seeds - 1.

        Returns:
          What `compare.md` holds.

        Raises:
          ArtifactError: if results on disk cannot be read, or tables not written.
          WorkdirError: if another comparison is at work in the directory.
          NonFiniteScoreError: at the end, naming the methods that diverged.
        """
        failed: dict[str, str] = {}
        with lock.sole_user(self.workdir):
            if jax.process_index() == 0:
                self._made_of.begin()
            for seed in range(num_seeds):
                for name in methods:
                    what = f"{systems.METHODS[name].title}, seed {seed}"
                    # One process looks: file systems may show the others less.
                    finished = np.asarray(self._finished(name, seed))
                    if multihost_utils.broadcast_one_to_all(finished):
                        console.say("finished before", stage=what)
                        continue
                    console.say("starts", stage=what)
                    try:
                        self._run(name, seed)
                    except (
                        FloatingPointError,
                        NonFiniteScoreError,
                        NonFiniteFeatureError,
                    ) as error:
                        failed[what] = str(error)
                        console.warn(f"{what}: has diverged: {error}")
                    self._write(with_figure=False)
                self._write(with_figure=True)
        multihost_utils.sync_global_devices("tables are written")
        if failed:
            told = "\n  ".join(f"{what}: {error}" for what, error in failed.items())
            raise NonFiniteScoreError(
                f"{self.workdir / 'compare.md'} lacks what has diverged:\n  {told}"
            )
        return (self.workdir / "compare.md").read_text()

    def configured(self, name: str, seed: int) -> Config:
        """The configuration of a method with a seed."""
        seeded = dataclasses.replace(self.config, seed=seed)
        return systems.METHODS[name].configure(seeded)

    def read(self, config: Config) -> run_inputs.RunInputs:
        """What a configuration reads; read once for all that read the same."""
        key = (config.data, config.model, config.init)
        if key not in self._read:
            self._read[key] = run_inputs.read(config)
        return self._read[key]

    @property
    def _made_of(self) -> Artifact:
        kept = {
            key: value
            for key, value in settings.flatten(self.config).items()
            if key != "seed" and depends.matters(key)
        }
        return Artifact(self.workdir / "compare", kept)

    def _directory(self, name: str, seed: int) -> epath.Path:
        return self.workdir / name / f"seed_{seed}"

    def _finished(self, name: str, seed: int) -> bool:
        directory = self._directory(name, seed)
        wanted = ("results.json", "report.md", "evaluate/artifact.json")
        return all((directory / path).exists() for path in wanted)

    def _run(self, name: str, seed: int) -> None:
        changed, directory = self.configured(name, seed), self._directory(name, seed)
        inputs = self.read(changed)
        if jax.process_index() == 0:
            share(changed, directory, self.workdir.glob(f"*/seed_{seed}"), inputs)
        multihost_utils.sync_global_devices("stages are shared")
        pipeline.check(changed, directory, inputs)
        run = Run(changed, directory, inputs)
        write.write(run, pipeline.run(run), with_page=False)
        jax.clear_caches()  # programs of a finished run are of no use to the next

    def _lines(self) -> list[tables.Line]:
        """All that is finished, method by method."""
        found = []
        for name in systems.METHODS:
            seeds = [
                int(path.name.removeprefix("seed_"))
                for path in self.workdir.glob(f"{name}/seed_*")
                if path.name.removeprefix("seed_").isdigit()
            ]
            found += [
                tables.line_of(name, seed, self._directory(name, seed))
                for seed in sorted(seeds)
                if self._finished(name, seed)
            ]
        return found

    def _write(self, *, with_figure: bool) -> None:
        """Tables, and the figure, of all that is finished (on one process only)."""
        if jax.process_index() != 0:
            return
        lines, backbone = self._lines(), self.config.model.backbone
        text = tables.markdown(lines, self.config.data.name, backbone)
        write_whole(self.workdir / "compare.md", text)
        table = tables.csv_of(lines, backbone)
        write_whole(self.workdir / "compare.csv", table)
        if with_figure and lines:
            counts = self.read(self.config).data.train_counts
            with written(self.workdir / "compare.svg") as file:
                file.write(tables.figure(lines, counts))


def _check_measured(config: Config) -> None:
    """Refuses a method whose line no evaluation would give."""
    recipe, tuned = systems.recipe_of(config), config.finetune
    measured = {
        "lgr": bool(tuned.epochs) and tuned.head == "lgr",
        "fc": bool(tuned.epochs) and tuned.head == "fc",
        "knn": config.evaluate.knn,
        "zero_shot": config.evaluate.zero_shot,
    }
    if not measured.get(recipe.result, True) or config.init.vl_ltr:
        raise configs.ConfigError(
            f"nothing would measure its head {recipe.result!r}: finetune.epochs="
            f"{tuned.epochs}, finetune.head={tuned.head!r}, "
            f"init.vl_ltr={config.init.vl_ltr!r}"
        )


def share(
    config: Config,
    directory: epath.Path,
    others: Iterable[epath.Path],
    inputs: run_inputs.RunInputs,
) -> None:
    """Takes over finished stages that another method ran with the same settings.

    One that was begun here gives way to a finished one. Past a stage that has to be
    made, nothing is taken: it would belong to another's.

    Raises:
      WorkdirError: if files cannot be copied.
    """
    runs = list(others)
    for stage in pipeline.planned(config, inputs):
        mine = depends.artifact(config, directory, stage, inputs)
        if mine.finished:
            continue
        there = [depends.artifact(config, other, stage, inputs) for other in runs]
        theirs = next(filter(_is_whole, there), None)
        if theirs is None:
            break
        partial = directory / f"{stage}.partial"
        try:
            for left in (partial, mine.directory):
                if left.exists():
                    left.rmtree()
            _copy(theirs.directory, partial)
            partial.rename(mine.directory)
        except OSError as error:
            raise workdirs.WorkdirError(
                f"{theirs.directory} cannot be copied to {mine.directory} ({error})"
            ) from error


def _is_whole(left: Artifact) -> bool:
    """Whether a stage is finished, with the settings that are asked for."""
    if not left.finished:
        return False
    try:
        left.check()
    except ArtifactError:
        return False
    return True


def _copy(source: epath.Path, target: epath.Path) -> None:
    """The same files; on a local disk the same bytes under another name.

    Arrays and checkpoints of a finished stage are never written again; the small files
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
