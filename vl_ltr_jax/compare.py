"""The systems of the paper's tables on one data set, over several seeds.

python -m vl_ltr_jax.compare --config=configs/shapes_lt.py --workdir=DIR --seeds=3

Each method is a change of VL-LTR's configuration (see baselines/); a stage that two
have in common is run once. What is finished is not run again. `compare.md`,
`compare.csv` and `compare.svg` are written anew after each seed.
"""

import csv
import dataclasses
import io
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from etils import epath

from vl_ltr_jax import baselines, curves, inputs, logs, report, run, stages, whole_file
from vl_ltr_jax import config as configs
from vl_ltr_jax import main as vl_ltr_main
from vl_ltr_jax.artifacts import ArtifactError, write_whole
from vl_ltr_jax.baselines import ablations
from vl_ltr_jax.evaluate import NonFiniteScoreError
from vl_ltr_jax.settings import Config

_SEEDS = flags.DEFINE_integer("seeds", 3, "How many seeds, from 0.")
_METHODS = flags.DEFINE_list(
    "methods", ["all"], "Names of methods; 'all', 'systems' or 'ablations' are groups."
)
GROUPS = {
    "all": tuple(baselines.METHODS),
    "systems": tuple(baselines.RECIPES),
    "ablations": ("vl_ltr", *ablations.ABLATIONS),
}
COLUMNS = (
    *("method", "title", "backbone", "seed", "rule"),
    *("overall", "many", "medium", "few", "images_seen", "seconds"),
)


@dataclasses.dataclass(frozen=True)
class Line:
    """One method with one seed.

    Attributes:
      method: key of `baselines.METHODS`.
      seed: of the run.
      test: the method's head on the test images, as in results.json.
      images_seen: draws of all training stages, shared ones included.
      seconds: of all stages but evaluation, shared ones included.
      per_class: accuracy in percent of each class; NaN where it has no test image.
    """

    method: str
    seed: int
    test: Mapping[str, Any]
    images_seen: int
    seconds: float
    per_class: np.ndarray


def methods_of(given: Sequence[str]) -> list[str]:
    """Method names, with groups unfolded, each once.

    Raises:
      ConfigError: for an unknown name, or none.
    """
    names = [name for word in given for name in GROUPS.get(word, (word,))]
    for name in names:
        baselines.named(name)
    if not names:
        raise configs.ConfigError("--methods names no method")
    return list(dict.fromkeys(names))


def check(config: Config, methods: Sequence[str], num_seeds: int) -> None:
    """Checks every method's configuration before the first runs.

    Raises:
      ConfigError: naming the method and what is wrong.
    """
    if config.method != "vl_ltr":
        raise configs.ConfigError(
            f"method={config.method!r}: every method is made from VL-LTR's "
            "configuration; leave it to --methods"
        )
    if num_seeds < 1:
        raise configs.ConfigError(f"--seeds={num_seeds}: at least 1")
    for name in methods:
        changed = baselines.METHODS[name].configure(config)
        try:
            configs.check(changed)
            baselines.check(changed)
        except configs.ConfigError as error:
            raise configs.ConfigError(f"--methods={name}: {error}") from error


def compare(
    config: Config, workdir: epath.Path, methods: Sequence[str], num_seeds: int
) -> str:
    """Runs what is not there yet, and writes the tables and the figure.

    A method that diverges loses its line, not those of the others.

    Args:
      config: VL-LTR's configuration on the data set.
      workdir: a run's workdir is `workdir/METHOD/seed_N`.
      methods: keys of `baselines.METHODS`.
      num_seeds: seeds 0 to num_seeds - 1.

    Returns:
      What `compare.md` holds.

    Raises:
      ConfigError: as :func:`check` does.
      NonFiniteScoreError: at the end, naming the methods that diverged.
    """
    check(config, methods, num_seeds)
    lines: list[Line] = []
    failed: dict[str, str] = {}
    for seed in range(num_seeds):
        for name in methods:
            logs.say(f"{baselines.METHODS[name].title}, seed {seed}")
            try:
                lines.append(_run(config, workdir, name, seed))
            except (FloatingPointError, NonFiniteScoreError) as error:
                failed[f"{name}, seed {seed}"] = str(error)
                logs.say(f"{name}, seed {seed} has diverged: {error}")
        text = _write(config, workdir, methods, lines)
    if failed:
        told = "\n  ".join(f"{name}: {error}" for name, error in failed.items())
        raise NonFiniteScoreError(
            f"{workdir / 'compare.md'} lacks what has diverged:\n  {told}"
        )
    return text


def _run(config: Config, workdir: epath.Path, name: str, seed: int) -> Line:
    recipe = baselines.METHODS[name]
    changed = recipe.configure(dataclasses.replace(config, seed=seed))
    directory = workdir / name / f"seed_{seed}"
    read = inputs.read(changed)
    stages.check(changed, directory, read)
    _share(changed, directory, workdir.glob(f"*/seed_{seed}"), read)
    results = stages.run(changed, directory, read)
    jax.clear_caches()  # programs of a finished run are of no use to the next
    costs = results["cost"]["stages"]
    per_class = (directory / "evaluate" / "per_class_test.csv").read_text()
    return Line(
        name,
        seed,
        results["test"][recipe.result],
        results["cost"]["images_seen"],
        sum(cost["seconds"] for stage, cost in costs.items() if stage != "evaluate"),
        accuracy_per_class(per_class, recipe.result),
    )


def accuracy_per_class(text: str, head: str) -> np.ndarray:
    """Percentages [C] of a head in `per_class_SPLIT.csv`; NaN for no image."""
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["head"] == head]
    hits, images = (np.array([int(r[k]) for r in rows]) for k in ("top1", "images"))
    return np.where(images > 0, 100 * hits / np.maximum(images, 1), np.nan)


def _write(
    config: Config, workdir: epath.Path, methods: Sequence[str], lines: Sequence[Line]
) -> str:
    of = {name: [line for line in lines if line.method == name] for name in methods}
    found = {name: mine for name, mine in of.items() if mine}
    parts = []
    for rule, title in report.RULE_NAMES.items():
        rows = [
            report.row(
                baselines.METHODS[name].title,
                config.model.backbone,
                [line.test for line in mine],
                rule,
                report.Cost(
                    [line.images_seen for line in mine],
                    [line.seconds for line in mine],
                ),
            )
            for name, mine in found.items()
        ]
        num_seeds = len({line.seed for line in lines})
        parts += [
            f"{config.data.name}, {title}, test images, {num_seeds} seeds",
            report.table(rows),
        ]
    text = "\n\n".join(parts) + "\n"
    write_whole(workdir / "compare.md", text)
    write_whole(workdir / "compare.csv", csv_of(lines, config.model.backbone))
    if found:
        counts = inputs.read_data(config).train_counts
        curve = {
            baselines.METHODS[name].title: np.mean([m.per_class for m in mine], axis=0)
            for name, mine in found.items()
        }
        with whole_file.write(workdir / "compare.svg") as file:
            file.write(curves.draw(curve, counts, baselines.METHODS["vl_ltr"].title))
    return text


def csv_of(lines: Iterable[Line], backbone: str) -> str:
    """A row for each method, seed and shot rule, with a header; see `COLUMNS`."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for line in lines:
        for rule in report.RULE_NAMES:
            writer.writerow(
                {
                    "method": line.method,
                    "title": baselines.METHODS[line.method].title,
                    "backbone": backbone,
                    "seed": line.seed,
                    "rule": rule,
                    "overall": line.test["top1"],
                    **line.test["shots"][rule],
                    "images_seen": line.images_seen,
                    "seconds": round(line.seconds, 1),
                }
            )
    return file.getvalue()


def _share(
    config: Config,
    directory: epath.Path,
    others: Iterable[epath.Path],
    read: inputs.Inputs,
) -> None:
    """Takes over finished stages that another method ran with the same settings."""
    for other in others:
        for stage in stages.planned(config, read):
            mine = run.artifact(config, directory, stage, read)
            theirs = run.artifact(config, other, stage, read)
            if mine.directory.exists() or not theirs.finished:
                continue
            try:
                theirs.check()
            except ArtifactError:
                continue
            partial = directory / f"{stage}.partial"
            if partial.exists():
                partial.rmtree()
            shutil.copytree(theirs.directory, partial, copy_function=_link)
            partial.rename(mine.directory)


def _link(source: str, target: str) -> None:
    """The same bytes under another name: finished artifacts are never written again."""
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def main(argv: Sequence[str]) -> None:
    """Runs the comparison and prints the tables."""
    del argv
    try:
        config, directory = vl_ltr_main.checked_flags()
        names = methods_of(_METHODS.value)
        check(config, names, _SEEDS.value)
        vl_ltr_main.keep_programs(config, directory)
        print(compare(config, directory, names, _SEEDS.value))
    except (ValueError, FloatingPointError) as error:
        if not type(error).__module__.startswith("vl_ltr_jax"):
            raise
        vl_ltr_main.refuse(error)


if __name__ == "__main__":
    vl_ltr_main.start(main)
