"""What is published about long-tailed benchmarks, and whether data agree.

Counts of ImageNet-LT and Places-LT: Liu et al., "Large-Scale Long-Tailed Recognition in
an Open World", CVPR 2019; of iNaturalist 2018: its competition's annotations; of
CIFAR-100-LT: see `long_tail`. The sizes of the many-, medium- and few-shot groups are
those of the standard rule of `shots`; by VL-LTR's own rule they differ.
"""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from vl_ltr_jax.data.checks.findings import Finding, Kind, Offender, gather
from vl_ltr_jax.data.sources.long_tail import exponential_counts
from vl_ltr_jax.method.shots import shot_groups


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A published data set.

    Attributes:
      title: its name.
      layout: of its label file, see `class_names`; empty if it has none of its own.
      spellings: what it is called, in small letters and digits alone.
      num_classes: C.
      sizes: images of each split that is published.
      extremes: training images of the largest class and of the smallest.
      groups: classes with many, medium and few training images.
    """

    title: str
    layout: str
    spellings: frozenset[str]
    num_classes: int
    sizes: Mapping[str, int]
    extremes: tuple[int, int]
    groups: tuple[int, int, int]


def _cifar100_lt(imbalance: int) -> Benchmark:
    counts = np.array(exponential_counts(500, 100, imbalance))
    many, medium, few = (
        int(members.sum()) for members in shot_groups(counts, "standard").values()
    )
    spelling = f"cifar100lt{imbalance}"
    return Benchmark(
        title=f"CIFAR-100-LT of imbalance {imbalance}",
        layout="",
        spellings=frozenset(
            (spelling, "cifar100lt") if imbalance == 100 else [spelling]
        ),
        num_classes=100,
        sizes={"train": int(counts.sum()), "test": 10_000},
        extremes=(int(counts.max()), int(counts.min())),
        groups=(many, medium, few),
    )


BENCHMARKS = (
    Benchmark(
        title="ImageNet-LT",
        layout="imagenet_lt",
        spellings=frozenset(("imagenetlt", "imnetlt")),
        num_classes=1000,
        sizes={"train": 115_846, "val": 20_000, "test": 50_000},
        extremes=(1280, 5),
        groups=(385, 479, 136),
    ),
    Benchmark(
        title="Places-LT",
        layout="places_lt",
        spellings=frozenset(("placeslt", "places365lt")),
        num_classes=365,
        sizes={"train": 62_500, "val": 7_300, "test": 36_500},
        extremes=(4980, 5),
        groups=(131, 163, 71),
    ),
    Benchmark(
        title="iNaturalist 2018",
        layout="inat18",
        spellings=frozenset(
            ("inat18", "inat2018", "inaturalist18", "inaturalist2018", "inatlt")
        ),
        num_classes=8142,
        # Labels of the test images are not published: validation is the test.
        sizes={"train": 437_513, "val": 24_426, "test": 24_426},
        extremes=(1000, 2),
        groups=(842, 4076, 3224),
    ),
    *map(_cifar100_lt, (100, 50, 10)),
)


def by_name(name: str) -> Benchmark | None:
    """The benchmark that a data set's name is a spelling of."""
    spelling = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((b for b in BENCHMARKS if spelling in b.spellings), None)


def by_form(layout: str, num_classes: int) -> Benchmark | None:
    """The benchmark that has this layout and number of classes."""
    form = (layout, num_classes)
    return next((b for b in BENCHMARKS if (b.layout, b.num_classes) == form), None)


def differences(
    benchmark: Benchmark,
    num_classes: int,
    sizes: Mapping[str, int],
    train_counts: Int[np.ndarray, "C"],
) -> list[str]:
    """Each number that is not as published, in words.

    Args:
      benchmark: what it should be.
      num_classes: C.
      sizes: images of each split that could be opened.
      train_counts: training images of each class.
    """
    found = {"classes": (num_classes, benchmark.num_classes)}
    for split in benchmark.sizes.keys() & sizes.keys():
        found[f"{split} images"] = (sizes[split], benchmark.sizes[split])
    if len(train_counts) and "train" in sizes:
        here = int(train_counts.max()), int(train_counts.min())
        which = ("largest", "smallest")
        for name, count, known in zip(which, here, benchmark.extremes, strict=True):
            found[f"training images of the {name} class"] = (count, known)
        groups = shot_groups(train_counts, "standard").items()
        for (name, members), known in zip(groups, benchmark.groups, strict=True):
            found[f"{name}-shot classes"] = (int(members.sum()), known)
    return [
        f"{here:,} {what} here, {there:,} published"
        for what, (here, there) in found.items()
        if here != there
    ]


def findings(
    name: str,
    layout: str,
    num_classes: int,
    sizes: Mapping[str, int],
    train_counts: Int[np.ndarray, "C"],
) -> list[Finding]:
    """Numbers that are not those of the benchmark that the data set claims to be.

    It claims so by its name, which makes differences errors, or looks so by its layout
    and number of classes.

    Args:
      name: of the data set.
      layout: see `class_names.read_class_names`.
      num_classes: C.
      sizes: images of each split that could be opened.
      train_counts: training images of each class.
    """
    named = by_name(name)
    benchmark = named or by_form(layout, num_classes)
    if benchmark is None:
        return []
    return gather(
        Kind(
            "published-counts",
            "error" if named else "warning",
            f"numbers that are not those of {benchmark.title}",
            f"use the published lists of {benchmark.title}, unpacked whole; if the "
            "data are others on purpose, give data.name another name",
        ),
        differences(benchmark, num_classes, sizes, train_counts),
        lambda difference: Offender(benchmark.title, note=difference),
    )


def is_published(
    name: str,
    layout: str,
    num_classes: int,
    sizes: Mapping[str, int],
    train_counts: Int[np.ndarray, "C"],
) -> bool:
    """Whether it is a benchmark just as published: same arguments as `findings`."""
    benchmark = by_name(name) or by_form(layout, num_classes)
    return (
        benchmark is not None
        and sizes.keys() >= benchmark.sizes.keys()
        and not differences(benchmark, num_classes, sizes, train_counts)
    )
