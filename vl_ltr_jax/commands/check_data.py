"""Check of a data set before training.

python -m vl_ltr_jax.data.check --config=FILE --config.data.root=ROOT [--workdir=DIR]

Opens the files of a run, decodes every image, and looks for faults that would spoil a
run without stopping it: leaks between splits, texts of other classes, markup instead of
prose. The report goes to standard output, and with `findings.json` into the workdir. A
stopped check goes on. The exit code is 0 without errors, 1 with errors in the data, and
2 for a mistake in the command line.
"""

import dataclasses
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from etils import epath

from vl_ltr_jax.commands import exits
from vl_ltr_jax.commands import flags as commands_flags
from vl_ltr_jax.commands.command import Command
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.data.checks import (
    inspection,
    membership,
    misfiled,
    open_parts,
    overview,
    pairing,
    prose,
    published,
)
from vl_ltr_jax.data.checks.findings import (
    Classes,
    Finding,
    has_errors,
    to_markdown,
    worst_first,
)
from vl_ltr_jax.data.checks.open_rows import Place
from vl_ltr_jax.data.images import picture_folders
from vl_ltr_jax.data.sources.dataset import SPLITS, TEST_IS_VAL, LongTailedData
from vl_ltr_jax.data.text import files
from vl_ltr_jax.data.text.class_names import read_wnids
from vl_ltr_jax.logs import console
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.storage.artifact import write_whole
from vl_ltr_jax.storage.workdir import check_writable

LEDGER = "images.jsonl"
_SKIP_IMAGES = flags.DEFINE_bool(
    "skip_images", False, "Check lists and texts only; decode no image."
)
COMMAND = Command(
    "vl_ltr_jax.data.check",
    "Checks a data set before training: damaged images, images in two splits, texts "
    "of other classes and more, each with its place and a remedy. A stopped check goes "
    "on. The exit code is 1 if there is an error.",
    (
        (
            "your own pictures",
            "--config=configs/image_list.py --config.data.root=ROOT "
            "--config.data.name=NAME",
        ),
        (
            "lists and texts only, in seconds",
            "--config=configs/places_lt.py --config.data.root=ROOT --skip_images",
        ),
    ),
)


@dataclasses.dataclass(frozen=True)
class Checked:
    """Outcome of a check.

    Attributes:
      facts: sizes of the checked parts, a line each.
      findings: errors before warnings.
    """

    facts: list[str]
    findings: list[Finding]

    @property
    def sound(self) -> bool:
        """Returns True if there is no error."""
        return not has_errors(self.findings)


def check_data(
    config: Config, *, ledger: Path | None = None, skip_images: bool = False
) -> Checked:
    """Returns the findings in the data set of a configuration.

    Args:
      config: configuration of a run.
      ledger: file of images that earlier checks decoded, see `inspection`.
      skip_images: leaves out findings that need pixels.
    """
    options = config.data
    parts = open_parts.open_parts(lambda: _without_texts(config), _place(config))
    classes, findings = Classes(parts.class_names), list(parts.findings)
    labels = {name: split.labels for name, split in parts.splits.items()}
    sizes = {name: len(split) for name, split in parts.splits.items()}
    counts = np.zeros(parts.num_classes, np.int64)
    if "train" in labels:
        counts = np.bincount(labels["train"], minlength=parts.num_classes)
    facts = overview.images(sizes, counts)
    if parts.left_out:
        facts.append(picture_folders.describe(parts.left_out))
    if parts.splits.get("test") is parts.splits.get("val"):
        facts.append(TEST_IS_VAL)

    numbers = (options.name, options.layout, parts.num_classes, sizes, counts)
    findings += published.findings(*numbers)
    findings += membership.coverage(labels, classes)
    findings += membership.repeated_rows(parts.splits, classes)
    if parts.class_names:
        findings += misfiled.findings(parts.splits, parts.class_names, _wnids(config))
    if not skip_images:
        threads = _num_threads(options.num_threads)
        inspected = inspection.inspect(parts.splits, num_threads=threads, ledger=ledger)
        findings += inspection.findings(parts.splits, inspected, classes)
        findings += membership.repeated_content(
            parts.splits, inspected, classes, published=published.is_published(*numbers)
        )
        facts += overview.pictures(inspected, options.orientation)
    text_facts, text_findings = _texts(config, parts)
    return Checked(facts + text_facts, worst_first(findings + text_findings))


def _without_texts(config: Config) -> LongTailedData:
    """Returns the data set without its text files, which have a check of their own."""
    data = dataclasses.replace(config.data, texts="none")
    return run_inputs.read_data(dataclasses.replace(config, data=data), quiet=True)


def _place(config: Config) -> Place:
    options = config.data
    lists = {
        split: getattr(options, f"{split}_list") or f"{options.name}_{split}.txt"
        for split in SPLITS
    }
    root = run_inputs.data_root(config)
    return Place(options.source, root, options.layout, lists, options.orientation)


def _wnids(config: Config) -> tuple[str, ...]:
    """Returns ImageNet's class ids in label order; empty for other data sets."""
    root = run_inputs.data_root(config)
    is_there = (root / "labels.txt").is_file()
    return read_wnids(root) if config.data.layout == "imagenet_lt" and is_there else ()


def _num_threads(setting: int) -> int:
    """Returns the number of threads: one a core for 0, at most two a core."""
    cores = len(os.sched_getaffinity(0))
    return min(setting or cores, 2 * cores)


def _texts(config: Config, parts: open_parts.Parts) -> tuple[list[str], list[Finding]]:
    """Returns facts and findings about texts."""
    options, names = config.data, parts.class_names
    root = run_inputs.text_root(config) or run_inputs.data_root(config)
    findings: list[Finding] = []
    if any(parts.texts):  # made by the source
        texts = [
            prose.ClassText(f"text of {name!r}", text, "utf-8")
            for name, text in zip(names, parts.texts, strict=True)
        ]
    elif options.texts == "none":
        return ["texts: none, so a class has only prompts"], findings
    elif not parts.num_classes:
        return ["texts: not checked, since the classes are unknown"], findings
    else:
        texts, findings = prose.read(root, parts.num_classes, options.text_encoding)
        findings += prose.left_over(root, len(names))
    with_prompts = options.prompts != "none"
    findings += prose.findings(texts, Classes(names), with_prompts=with_prompts)
    facts = overview.texts(texts)
    if names and texts:
        contents, where = [t.text for t in texts], [t.where for t in texts]
        order = _order_of_label_file(config)
        findings += pairing.findings(names, contents, where, order)
        facts += overview.sentences(names, texts, options.prompts, options.corpus_rule)
    return facts, findings


def _order_of_label_file(config: Config) -> dict[str, list[int]]:
    """Returns the label of each row of ImageNet's labels.txt."""
    if not (wnids := _wnids(config)):
        return {}
    rank = {wnid: label for label, wnid in enumerate(wnids)}
    file = run_inputs.data_root(config) / "labels.txt"
    text = files.read_text_file(file)
    order = [rank[line.split()[0]] for line in text.split("\n") if line.strip()]
    return {"rows of labels.txt, while labels are ranks of wnids": order}


def _checked_flags() -> tuple[Config, Path, bool]:
    """Returns the configuration, the workdir, and True to skip images."""
    config = commands_flags.checked_config(COMMAND)
    name = re.sub(r"[^\w.-]+", "_", config.data.name)
    workdir = flags.FLAGS.workdir or os.path.join("runs", "check", name)
    if "://" in workdir:
        raise configs.ConfigError(
            f"--workdir={workdir}: a check appends a line for each image. Name a local "
            "directory."
        )
    files.check_encoding(config.data.text_encoding)
    check_writable(epath.Path(workdir))
    return config, Path(workdir), _SKIP_IMAGES.value


def main(argv: Sequence[str]) -> None:
    """Checks the data set, prints the report, and writes it into the workdir."""
    del argv
    with exits.refusing():
        config, workdir, skip_images = _checked_flags()
        checked = check_data(config, ledger=workdir / LEDGER, skip_images=skip_images)
        title = f"Check of {config.data.name}"
        report = to_markdown(title, checked.facts, checked.findings)
        write_whole(epath.Path(workdir / "report.md"), report)
        content = json.dumps(dataclasses.asdict(checked), indent=2)
        write_whole(epath.Path(workdir / "findings.json"), content)
    where = workdir / "report.md"
    console.result(report.rstrip("\n"), os.fspath(where))
    console.say(f"the report is in {where}")
    sys.exit(0 if checked.sound else 1)


def run() -> None:
    """Runs the command in this process."""
    commands_flags.start(main, COMMAND)
