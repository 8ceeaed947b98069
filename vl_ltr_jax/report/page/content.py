"""Content of a report, gathered and shortened before anything is drawn.

Every `group` is one of `GROUPS`, by the standard rule.
"""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from vl_ltr_jax.recognizer.predictions import AttendedSentence

GROUPS = ("many", "medium", "few")


class Tile(NamedTuple):
    """An accuracy in the header, of a group or 'overall'; None without images."""

    group: str
    percent: float | None
    detail: str


class Row(NamedTuple):
    """A row of the paper's table; `main` marks the run's own head."""

    method: str
    backbone: str
    cells: tuple[str, ...]
    best: tuple[bool, ...]
    main: bool


class Table(NamedTuple):
    """The paper's table of one split: rows under the name of each shot rule.

    Attributes:
      images: images of the split, if known.
      notes: a sentence each.
    """

    split: str
    images: int | None
    rules: Mapping[str, tuple[Row, ...]]
    notes: tuple[str, ...]


class ClassLine(NamedTuple):
    """A class with its accuracy, and the wrong classes with their images."""

    name: str
    group: str
    train_images: int
    images: int
    percent: float
    taken_for: tuple[tuple[str, int], ...]


class PerClass(NamedTuple):
    """Accuracy of each class on a split; NaN for a class without images.

    `listed` holds the classes of the page's table, by rising training count.
    """

    split: str
    names: tuple[str, ...]
    train_counts: Int[np.ndarray, "C"]
    percent: Float[np.ndarray, "C"]
    worst: tuple[ClassLine, ...]
    listed: tuple[ClassLine, ...]


class ConfusionLine(NamedTuple):
    """A row of a confusion matrix: shares of a class's images, in percent."""

    name: str
    shares: tuple[float, ...]
    elsewhere: float


class LearningCurve(NamedTuple):
    """A scalar of a stage, thinned."""

    name: str
    steps: Float[np.ndarray, "K"]
    values: Float[np.ndarray, "K"]


# By stage, and by the title of their figure.
Curves: TypeAlias = Mapping[str, Mapping[str, tuple[LearningCurve, ...]]]


class ScoredSentence(NamedTuple):
    """A sentence and its L_lin; `chosen` marks anchors."""

    text: str
    score: float
    chosen: bool


class ClassSentences(NamedTuple):
    """The best and the worst sentences of a class.

    Attributes:
      best: lowest L_lin, lowest first.
      worst: highest L_lin, highest last.
      scores: L_lin of all sentences, rising, thinned.
      chosen: True for the anchors among them.
    """

    name: str
    group: str
    train_images: int
    num_sentences: int
    num_anchors: int
    best: tuple[ScoredSentence, ...]
    worst: tuple[ScoredSentence, ...]
    scores: Float[np.ndarray, "K"]
    chosen: Bool[np.ndarray, "K"]


class ClassGuess(NamedTuple):
    """A class among the predictions for a picture; `right` marks the true class."""

    name: str
    percent: float
    right: bool


class ExplainedPicture(NamedTuple):
    """A picture, as data URI, with its predictions.

    Attributes:
      size: width and height on the page, in pixels.
      enlarged: True to show its own pixels.
      name: true class.
      branches: probability of the first guess by each branch, in percent.
      sentences: sentences of the first guess, largest weight first.
    """

    source: str
    size: tuple[int, int]
    enlarged: bool
    name: str
    right: bool
    guesses: tuple[ClassGuess, ...]
    branches: Mapping[str, float]
    sentences: tuple[AttendedSentence, ...]


class DataGroup(NamedTuple):
    """Numbers of classes and images of a group; `images` by split."""

    group: str
    classes: int
    train_images: int
    images: Mapping[str, int]


class Setting(NamedTuple):
    """A key of the configuration; `default` is None if the value equals it."""

    key: str
    value: str
    default: str | None


class StageCost(NamedTuple):
    """Cost of a stage; `percent` is its share of all seconds."""

    stage: str
    images_seen: int
    duration: str
    percent: float


class Content(NamedTuple):
    """The whole page; parts that a run lacks are None or empty.

    Attributes:
      title: name of the data set.
      split: split of the header's accuracies.
      notes: sentences about anchors.
      confusion: most confused classes; the columns are the same classes.
      settings: keys of the configuration, by section.
    """

    title: str
    method: str
    facts: tuple[str, ...]
    split: str
    tiles: tuple[Tile, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    train_counts: Int[np.ndarray, "C"]
    groups: tuple[DataGroup, ...]
    data: Mapping[str, str]
    per_class: PerClass | None
    confusion: tuple[ConfusionLine, ...]
    curves: Curves
    selection: str
    anchors: tuple[ClassSentences, ...]
    explained: tuple[ExplainedPicture, ...]
    explained_split: str
    settings: Mapping[str, tuple[Setting, ...]]
    costs: tuple[StageCost, ...]
    duration: str
    images_seen: int
    versions: Mapping[str, str]
    made_on: str
