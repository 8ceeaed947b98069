"""The best and the worst sentences of classes by AnSS, as in the paper."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from vl_ltr_jax.report.page import text
from vl_ltr_jax.report.page.content import GROUPS, ClassSentences, ScoredSentence
from vl_ltr_jax.report.page.per_class import group_names

PER_GROUP = 3  # classes shown of each group
_AT_EITHER_END = 3  # sentences
_MAX_MARKS = 120  # in the strip of all scores


class Selection(NamedTuple):
    """The corpus and its anchors, from the stages `embed` and `anchors`.

    Attributes:
      sentences: sentences of the corpus.
      labels: class of each sentence.
      scores: L_lin of each, lower is better; +inf for classes without images.
      indices: anchors of each class, best first.
      padding: True for an absent anchor.
      name: value of `anchors.selection`.
    """

    sentences: Sequence[str]
    labels: Int[np.ndarray, " S"]
    scores: Float[np.ndarray, " S"]
    indices: Int[np.ndarray, "C M"]
    padding: Bool[np.ndarray, "C M"]
    name: str = "anss"


def examples(
    selection: Selection,
    class_names: Sequence[str],
    train_counts: Int[np.ndarray, "C"],
    per_group: int = PER_GROUP,
) -> tuple[ClassSentences, ...]:
    """Returns, for each group, the classes whose sentences differ most in L_lin."""
    groups = np.array(group_names(train_counts), object)
    spread = _spread(selection, len(class_names))
    chosen: list[int] = []
    for group in GROUPS:
        members = np.flatnonzero((groups == group) & (spread > 0))
        order = np.argsort(-spread[members], kind="stable")
        chosen += members[order][:per_group].tolist()
    return tuple(
        _class_sentences(
            selection,
            label,
            text.name(class_names[label]),
            str(groups[label]),
            int(train_counts[label]),
        )
        for label in chosen
    )


def _spread(selection: Selection, num_classes: int) -> Float[np.ndarray, "C"]:
    """Returns the range of scores of each class; -inf without finite scores."""
    known = np.isfinite(selection.scores)
    labels, scores = selection.labels[known], selection.scores[known]
    highest, lowest = (np.full(num_classes, end) for end in (-np.inf, np.inf))
    np.maximum.at(highest, labels, scores)
    np.minimum.at(lowest, labels, scores)
    return highest - lowest


def _class_sentences(
    selection: Selection, label: int, name: str, group: str, train_images: int
) -> ClassSentences:
    mine = np.flatnonzero(selection.labels == label)
    mine = mine[np.argsort(selection.scores[mine], kind="stable")]
    scores = np.asarray(selection.scores[mine], np.float64)
    anchors = selection.indices[label][~selection.padding[label]]
    is_anchor = np.isin(mine, anchors)
    scored = [
        ScoredSentence(
            text.sentence(selection.sentences[index]), float(score), bool(chosen)
        )
        for index, score, chosen in zip(
            _ends(mine), _ends(scores), _ends(is_anchor), strict=True
        )
    ]
    num_best = (len(scored) + 1) // 2
    marks = np.unique(np.linspace(0, len(mine) - 1, _MAX_MARKS).round().astype(int))
    return ClassSentences(
        name=name,
        group=group,
        train_images=train_images,
        num_sentences=len(mine),
        num_anchors=len(anchors),
        best=tuple(scored[:num_best]),
        worst=tuple(scored[num_best:]),
        scores=scores[marks],
        chosen=is_anchor[marks],
    )


def _ends(ordered: np.ndarray) -> np.ndarray:
    """Returns the first and the last few."""
    if len(ordered) <= 2 * _AT_EITHER_END:
        return ordered
    return np.concatenate([ordered[:_AT_EITHER_END], ordered[-_AT_EITHER_END:]])
