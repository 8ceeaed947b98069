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
    overview,
    pairing,
    prose,
    published,
)
from vl_ltr_jax.data.checks.report import has_errors, to_markdown, worst_first
from vl_ltr_jax.data.images import picture_folders
from vl_ltr_jax.data.sources.dataset import (
    SPLITS,
    TEST_IS_VAL,
    LongTailedData,
    Split,
)
from vl_ltr_jax.data.sources.faults import Classes, Faults, Finding
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
    options, faults = config.data, Faults(collect=True)
    data = _without_texts(config, faults)
    splits: dict[str, Split] = {}
    for name in SPLITS:
        if len(split := getattr(data, name)):
            splits[name] = split
    classes, findings = Classes(data.class_names), faults.findings
    labels = {name: split.labels for name, split in splits.items()}
    sizes = {name: len(split) for name, split in splits.items()}
    num_classes = len(data.class_names) or 1 + max(
        (int(own.max()) for own in labels.values()), default=-1
    )
    counts = np.zeros(num_classes, np.int64)
    if "train" in labels:
        counts = np.bincount(labels["train"], minlength=num_classes)
    facts = overview.images(sizes, counts)
    if data.left_out:
        facts.append(picture_folders.describe(data.left_out))
    if data.test_is_val:
        facts.append(TEST_IS_VAL)

    numbers = (options.name, options.layout, num_classes, sizes, counts)
    findings += published.findings(*numbers)
    findings += membership.coverage(labels, classes)
    findings += membership.repeated_rows(splits, classes)
    if data.class_names:
        findings += misfiled.findings(splits, data.class_names, _wnids(config))
    if not skip_images:
        threads = _num_threads(options.num_threads)
        inspected = inspection.inspect(splits, num_threads=threads, ledger=ledger)
        findings += inspection.findings(splits, inspected, classes)
        findings += membership.repeated_content(
            splits, inspected, classes, published=published.is_published(*numbers)
        )
        facts += overview.pictures(inspected, options.orientation)
    text_facts, text_findings = _texts(config, data, num_classes)
    return Checked(facts + text_facts, worst_first(findings + text_findings))


def _without_texts(config: Config, faults: Faults) -> LongTailedData:
    """Returns the sound part of the data set, without text files."""
    data = dataclasses.replace(config.data, texts="none")
    train, val, test = (
        Split(np.zeros(0, np.int32), lambda index: b"", str) for _ in SPLITS
    )
    result = LongTailedData(config.data.name, (), (), train, val, test)
    with faults.part("unopened", "the data set cannot be opened"):
        result = run_inputs.read_data(dataclasses.replace(config, data=data), faults)
    return result


def _wnids(config: Config) -> tuple[str, ...]:
    """Returns ImageNet's class ids in label order; empty for other data sets."""
    root = Path(config.data.root)
    is_there = (root / "labels.txt").is_file()
    return read_wnids(root) if config.data.layout == "imagenet_lt" and is_there else ()


def _num_threads(setting: int) -> int:
    """Returns the number of threads: one a core for 0, at most two a core."""
    cores = len(os.sched_getaffinity(0))
    return min(setting or cores, 2 * cores)


def _texts(
    config: Config, data: LongTailedData, num_classes: int
) -> tuple[list[str], list[Finding]]:
    """Returns facts and findings about texts."""
    options, names = config.data, data.class_names
    root = Path(options.text_root or options.root)
    findings: list[Finding] = []
    if any(data.class_texts):  # made by the source
        texts = [
            prose.ClassText(f"text of {name!r}", text, "utf-8")
            for name, text in zip(names, data.class_texts, strict=True)
        ]
    elif options.texts == "none":
        return ["texts: none, so a class has only prompts"], findings
    elif not num_classes:
        return ["texts: not checked, since the classes are unknown"], findings
    else:
        texts = prose.read(root, num_classes, options.text_encoding)
        findings = prose.left_over(root, len(names))
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
    file = Path(config.data.root) / "labels.txt"
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
