"""Facts of a data set: images, classes, shots, pictures and texts, one line each."""

import collections
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from vl_ltr_jax.data.checks.inspection import ImageFacts
from vl_ltr_jax.data.checks.prose import ClassText
from vl_ltr_jax.data.text.corpus import build_corpus
from vl_ltr_jax.method.shots import SHOT_RULES, shot_groups


def images(sizes: Mapping[str, int], train_counts: Int[np.ndarray, "C"]) -> list[str]:
    """Returns classes, images of each split, and groups by training images.

    Args:
      sizes: images of each split.
      train_counts: training images of each class; zeros if they are unknown.
    """
    listed = ", ".join(f"{size:,} {name}" for name, size in sizes.items()) or "none"
    facts = [f"{len(train_counts):,} classes; images: {listed}"]
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


def pictures(splits: Mapping[str, Sequence[ImageFacts]], orientation: str) -> list[str]:
    """Returns numbers of decoded and turned pictures, and their sizes.

    Args:
      splits: returned by `inspection.inspect`.
      orientation: value of `data.orientation`.
    """
    images = [image for split in splits.values() for image in split]
    if not images:
        return ["pictures decoded: none"]
    sides = np.array([(image.width, image.height) for image in images])
    readable = sides[sides.all(axis=1)]
    text = f"pictures decoded: {len(readable):,} of {len(images):,} rows"
    if len(readable):
        text += f", sides of {readable.min():,} to {readable.max():,} pixels"
    if turns := sum(image.turn for image in images):
        done = "turned so" if orientation == "exif" else "left as stored"
        text += (
            f"; EXIF asks for a turn of {turns:,}, which are {done} "
            f"(data.orientation={orientation!r})"
        )
    return [text]


def texts(texts: Sequence[ClassText]) -> list[str]:
    """Returns the number of texts, by encoding."""
    codecs = collections.Counter(t.encoding for t in texts if t.text is not None)
    parts = ", ".join(f"{count:,} {name}" for name, count in codecs.most_common())
    return [f"texts: {codecs.total():,}" + (f" ({parts})" if parts else "")]


def sentences(
    class_names: Sequence[str],
    texts: Sequence[ClassText],
    prompts: str,
    corpus_rule: str,
) -> list[str]:
    """Returns the number of training sentences.

    Args:
      class_names: C names.
      texts: C texts; a missing one counts as empty.
      prompts: see `corpus.build_corpus`.
      corpus_rule: see `corpus.build_corpus`.
    """
    contents = [text.text or "" for text in texts]
    try:
        corpus = build_corpus(class_names, contents, prompts, rule=corpus_rule)
    except ValueError as error:
        return [f"sentences: {error}"]
    low, middle, high = np.quantile(corpus.counts, (0, 0.5, 1))
    return [
        f"sentences: {len(corpus.sentences):,} with prompts {prompts!r}, {low:.0f} to "
        f"{high:.0f} of a class, median {middle:.0f}"
    ]
