"""VL-LTR beside its ablations and the Baseline, on one data set and several seeds.

python -m vl_ltr_jax.compare --config=configs/shapes_lt.py --workdir=DIR --seeds=3

Each method is a change of configuration and nothing else; a stage that two methods have
in common is run once. What is finished is not run again.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from absl import flags
from etils import epath

from vl_ltr_jax import config as configs
from vl_ltr_jax import inputs, logs, report, run, stages
from vl_ltr_jax import main as vl_ltr_main
from vl_ltr_jax.artifacts import ArtifactError, write_whole
from vl_ltr_jax.settings import Config

_SEEDS = flags.DEFINE_integer("seeds", 3, "How many seeds, from 0.")
_METHODS = flags.DEFINE_list("methods", ["all"], "Names of methods, or 'all'.")


@dataclasses.dataclass(frozen=True)
class Method:
    """A line of the table: the run it takes and the head it reads.

    Attributes:
      title: as in the table.
      head: key of the results.
      change: makes the method's configuration from VL-LTR's.
    """

    title: str
    head: str
    change: Callable[[Config], Config]


def _with(config: Config, **sections: Mapping[str, Any]) -> Config:
    changed = {
        name: dataclasses.replace(getattr(config, name), **values)
        for name, values in sections.items()
    }
    return dataclasses.replace(config, **changed)


def _without_clip(config: Config) -> Config:
    tokenizer = config.init.tokenizer or config.init.clip
    return _with(
        config,
        init={"clip": "", "tokenizer": tokenizer},
        pretrain={"distillation": "none"},
    )


def _baseline(config: Config) -> Config:
    # The same number of images, all for the one stage it has.
    epochs = config.pretrain.epochs + config.finetune.epochs
    return _with(
        config,
        pretrain={"epochs": 0},
        finetune={
            "head": "fc",
            "train_image_tower": True,
            "epochs": epochs,
            "learning_rate": config.pretrain.learning_rate,
            "warmup_epochs": config.pretrain.warmup_epochs,
        },
    )


def _zero_shot(config: Config, text: str) -> Config:
    return _with(
        config,
        pretrain={"epochs": 0},
        finetune={"epochs": 0},
        evaluate={"zero_shot_text": text},
    )


METHODS = {
    "zero_shot_names": Method(
        "Zero-shot CLIP, class names", "zero_shot", lambda c: _zero_shot(c, "prompts")
    ),
    "zero_shot_texts": Method(
        "Zero-shot CLIP, class texts", "zero_shot", lambda c: _zero_shot(c, "sentences")
    ),
    "baseline": Method("Baseline (CLIP tower, FC, cross entropy)", "fc", _baseline),
    "vl_ltr": Method("VL-LTR", "lgr", lambda c: c),
    "no_pretraining": Method(
        "without pre-training", "lgr", lambda c: _with(c, pretrain={"epochs": 0})
    ),
    "no_clip": Method("without CLIP weights and distillation", "lgr", _without_clip),
    "no_distillation": Method(
        "without distillation",
        "lgr",
        lambda c: _with(c, pretrain={"distillation": "none"}),
    ),
    "fc": Method("FC head", "fc", lambda c: _with(c, finetune={"head": "fc"})),
    "knn": Method("kNN head", "knn", lambda c: c),
    "cutoff": Method(
        "cut-off selection",
        "lgr",
        lambda c: _with(c, anchors={"selection": "cutoff"}),
    ),
}


def compare(
    config: Config, workdir: epath.Path, methods: Sequence[str], num_seeds: int
) -> str:
    """Runs what is not there yet and returns the table.

    Args:
      config: VL-LTR's configuration on the data set.
      workdir: a run's workdir is `workdir/METHOD/seed_N`.
      methods: keys of `METHODS`.
      num_seeds: seeds 0 to num_seeds - 1.

    Returns:
      A Markdown table under each shot rule: mean and standard deviation over seeds.

    Raises:
      ConfigError: if a method is unknown.
    """
    for name in methods:
        if name not in METHODS:
            raise configs.ConfigError(
                f"--methods: {name!r} is not one of {', '.join(METHODS)}"
            )
        configs.check(METHODS[name].change(config))
    if num_seeds < 1:
        raise configs.ConfigError(f"--seeds={num_seeds}: at least 1")
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
    for seed in range(num_seeds):
        for name in methods:
            changed = METHODS[name].change(dataclasses.replace(config, seed=seed))
            directory = workdir / name / f"seed_{seed}"
            logs.say(f"{METHODS[name].title}, seed {seed}")
            read = inputs.read(changed)
            stages.check(changed, directory, read)
            _share(changed, directory, workdir.glob(f"*/seed_{seed}"), read)
            result = stages.run(changed, directory, read)
            results[name].append(result["test"][METHODS[name].head])
    parts = []
    for rule, title in report.RULE_NAMES.items():
        rows = [
            report.row(METHODS[name].title, config.model.backbone, found, rule)
            for name, found in results.items()
        ]
        parts += [f"{title}, test images, {num_seeds} seeds", report.table(rows)]
    return "\n\n".join(parts)


def _share(
    config: Config,
    directory: epath.Path,
    others: Iterable[epath.Path],
    read: inputs.Inputs,
) -> None:
    """Copies finished stages that another method ran with the same settings."""
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
            shutil.copytree(theirs.directory, partial)
            partial.rename(mine.directory)


def main(argv: Sequence[str]) -> None:
    """Runs the comparison and writes `workdir/compare.md`."""
    del argv
    try:
        config, directory = vl_ltr_main.checked_flags()
        names = list(METHODS) if _METHODS.value == ["all"] else _METHODS.value
        text = compare(config, directory, names, _SEEDS.value)
        write_whole(directory / "compare.md", text + "\n")
        print(text)
    except (ValueError, FloatingPointError) as error:
        if not type(error).__module__.startswith("vl_ltr_jax"):
            raise
        vl_ltr_main.refuse(error)


if __name__ == "__main__":
    vl_ltr_main.start(main)
