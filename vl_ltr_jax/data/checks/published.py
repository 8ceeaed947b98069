"""Published numbers of long-tailed benchmarks, and differences of data from them.

Counts of ImageNet-LT and Places-LT: Liu et al., "Large-Scale Long-Tailed Recognition in
an Open World", CVPR 2019; of iNaturalist 2018: its competition's annotations; of
CIFAR-100-LT: see `long_tail`. The sizes of shot groups follow the standard rule of
`shots`, not VL-LTR's own.
"""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from vl_ltr_jax.data.sources.faults import Finding, Kind, Offender, gather
from vl_ltr_jax.data.sources.long_tail import exponential_counts
from vl_ltr_jax.method.shots import shot_groups


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A published data set.

    Attributes:
      layout: of its label file, see `class_names`; empty without such a file.
      spellings: its names, in small letters and digits alone.
      sizes: images of each published split.
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
    """Returns the benchmark of a name in any spelling."""
    spelling = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((b for b in BENCHMARKS if spelling in b.spellings), None)


def by_form(layout: str, num_classes: int) -> Benchmark | None:
    """Returns the benchmark with this layout and number of classes."""
    form = (layout, num_classes)
    return next((b for b in BENCHMARKS if (b.layout, b.num_classes) == form), None)


def differences(
    benchmark: Benchmark,
    num_classes: int,
    sizes: Mapping[str, int],
    train_counts: Int[np.ndarray, "C"],
) -> list[str]:
    """Returns each number that differs from the published one, in words.

    Args:
      benchmark: published numbers.
      num_classes: C.
      sizes: images of each readable split.
      train_counts: training images of each class.
    """
    numbers = {"classes": (num_classes, benchmark.num_classes)}
    for split in benchmark.sizes.keys() & sizes.keys():
        numbers[f"{split} images"] = (sizes[split], benchmark.sizes[split])
    if len(train_counts) and "train" in sizes:
        largest, smallest = benchmark.extremes
        numbers |= {
            "training images of the largest class": (train_counts.max(), largest),
            "training images of the smallest class": (train_counts.min(), smallest),
        }
        groups = shot_groups(train_counts, "standard").items()
        for (name, members), known in zip(groups, benchmark.groups, strict=True):
            numbers[f"{name}-shot classes"] = (int(members.sum()), known)
    return [
        f"{number:,} {name} here, {known:,} published"
        for name, (number, known) in numbers.items()
        if number != known
    ]


def findings(
    name: str,
    layout: str,
    num_classes: int,
    sizes: Mapping[str, int],
    train_counts: Int[np.ndarray, "C"],
) -> list[Finding]:
    """Returns numbers that differ from those of the benchmark of this name or form.

    Differences are errors if the name is the benchmark's, and warnings if only layout
    and number of classes are.

    Args:
      name: of the data set.
      layout: see `class_names.read_class_names`.
      num_classes: C.
      sizes: images of each readable split.
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
            f"numbers that differ from those of {benchmark.title}",
            f"use the published lists of {benchmark.title}; if the data differ on "
            "purpose, change data.name",
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
    """Returns True for a benchmark as published; same arguments as `findings`."""
    benchmark = by_name(name) or by_form(layout, num_classes)
    return (
        benchmark is not None
        and sizes.keys() >= benchmark.sizes.keys()
        and not differences(benchmark, num_classes, sizes, train_counts)
    )
