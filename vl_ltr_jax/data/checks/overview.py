"""What a data set has: images, classes, shots, pictures, texts, in a line each."""

import collections
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from vl_ltr_jax.data.checks.inspection import Seen
from vl_ltr_jax.data.checks.prose import ClassText
from vl_ltr_jax.data.text.corpus import build_corpus
from vl_ltr_jax.method.shots import SHOT_RULES, shot_groups


def images(sizes: Mapping[str, int], train_counts: Int[np.ndarray, "C"]) -> list[str]:
    """Classes, images of each split, and the groups by training images.

    Args:
      sizes: images of each split.
      train_counts: training images of each class; zeros where they are not known.
    """
    given = ", ".join(f"{size:,} {name}" for name, size in sizes.items()) or "none"
    facts = [f"{len(train_counts):,} classes; images: {given}"]
    if train_counts.any():
        by_rule = []
        for rule in SHOT_RULES:
            groups = shot_groups(train_counts, rule).values()
            numbers = "/".join(f"{members.sum():,}" for members in groups)
            by_rule.append(f"{numbers} ({rule})")
        facts.append(
            f"training images of a class: {train_counts.max():,} to "
            f"{train_counts.min():,}; classes with many/medium/few: "
            f"{', '.join(by_rule)}"
        )
    return facts


def pictures(seen: Mapping[str, Sequence[Seen]], orientation: str) -> list[str]:
    """Returns how many could be decoded, their sizes, and how many were turned.

    Args:
      seen: what `inspection.inspect` found.
      orientation: value of `data.orientation`.
    """
    sides = [(image.width, image.height) for split in seen.values() for image in split]
    if not sides:
        return ["pictures decoded: none"]
    found = np.array(sides)
    readable = found[found.all(axis=1)]
    text = f"pictures decoded: {len(readable):,} of {len(found):,} rows"
    if len(readable):
        text += f", sides of {readable.min():,} to {readable.max():,} pixels"
    if turns := sum(image.turn for split in seen.values() for image in split):
        done = "turned so" if orientation == "exif" else "left as stored"
        text += (
            f"; EXIF asks for a turn of {turns:,}, which are {done} "
            f"(data.orientation={orientation!r})"
        )
    return [text]


def texts(given: Sequence[ClassText]) -> list[str]:
    """How many there are, in which encodings."""
    there = [text for text in given if text.text is not None]
    encodings = collections.Counter(text.encoding for text in there)
    how = ", ".join(f"{count:,} {name}" for name, count in encodings.most_common())
    return [f"texts: {len(there):,}" + (f" ({how})" if how else "")]


def sentences(
    class_names: Sequence[str],
    given: Sequence[ClassText],
    prompts: str,
    corpus_rule: str,
) -> list[str]:
    """How many sentences training would have.

    Args:
      class_names: C names.
      given: C texts; one that is not there counts as empty.
      prompts: see `corpus.build_corpus`.
      corpus_rule: see `corpus.build_corpus`.
    """
    known = [text.text or "" for text in given]
    try:
        corpus = build_corpus(class_names, known, prompts, rule=corpus_rule)
    except ValueError as error:
        return [f"sentences: {error}"]
    low, middle, high = np.quantile(corpus.counts, (0, 0.5, 1))
    return [
        f"sentences: {len(corpus.sentences):,} with prompts {prompts!r}, {low:.0f} to "
        f"{high:.0f} of a class, median {middle:.0f}"
    ]
