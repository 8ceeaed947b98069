"""What a report shows, gathered and shortened, before anything is drawn."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int

GROUPS = ("many", "medium", "few")


@dataclasses.dataclass(frozen=True)
class Tile:
    """A number of the header.

    Attributes:
      group: 'overall' or one of `GROUPS`.
      percent: accuracy; None where there is no image.
      detail: what it is the accuracy of.
    """

    group: str
    percent: float | None
    detail: str


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the paper's table: cells, which are the best, whether it is ours."""

    method: str
    backbone: str
    cells: tuple[str, ...]
    best: tuple[bool, ...]
    main: bool


@dataclasses.dataclass(frozen=True)
class Table:
    """The paper's table of one split under each shot rule.

    Attributes:
      split: its name.
      images: of the split; None where it is not known.
      rules: under the name of each rule, the lines.
      notes: a sentence each.
    """

    split: str
    images: int | None
    rules: Mapping[str, tuple[Row, ...]]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ClassLine:
    """One class: its name, group, images, and what it was taken for, most often first.

    Attributes:
      name: of the class.
      group: by the standard rule.
      train_images: their number.
      images: of the split.
      percent: accuracy on these.
      taken_for: other classes and how many images were given to them.
    """

    name: str
    group: str
    train_images: int
    images: int
    percent: float
    taken_for: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class PerClass:
    """Accuracy of each class on a split.

    Attributes:
      split: its name.
      names: of the classes.
      train_counts: training images.
      images: of the split.
      percent: accuracy; NaN for a class without images.
      worst: the classes with the lowest accuracy.
      listed: of all classes, those that the page lists, by rising training count.
    """

    split: str
    names: tuple[str, ...]
    train_counts: Int[np.ndarray, "C"]
    images: Int[np.ndarray, "C"]
    percent: Float[np.ndarray, "C"]
    worst: tuple[ClassLine, ...]
    listed: tuple[ClassLine, ...]


@dataclasses.dataclass(frozen=True)
class ConfusionLine:
    """A line of a confusion matrix: shares of a class's images, in percent."""

    name: str
    group: str
    images: int
    shares: tuple[float, ...]
    elsewhere: float


@dataclasses.dataclass(frozen=True)
class LearningCurve:
    """One scalar of one stage, thinned."""

    name: str
    steps: Float[np.ndarray, "K"]
    values: Float[np.ndarray, "K"]


@dataclasses.dataclass(frozen=True)
class StageCurves:
    """The learning curves of a stage, each group in one figure.

    Attributes:
      stage: its name.
      panels: under the title of each figure, its curves.
    """

    stage: str
    panels: Mapping[str, tuple[LearningCurve, ...]]


@dataclasses.dataclass(frozen=True)
class ScoredSentence:
    """A sentence, its L_lin, and whether it is an anchor."""

    text: str
    score: float
    chosen: bool


@dataclasses.dataclass(frozen=True)
class ClassSentences:
    """The best and the worst sentences of a class.

    Attributes:
      name: of the class.
      group: by the standard rule.
      train_images: their number.
      num_sentences: of the class.
      num_anchors: how many were chosen.
      best: with the lowest L_lin, the lowest first.
      worst: with the highest, the highest last.
      scores: of all sentences, rising, thinned.
      chosen: which of these are anchors.
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


@dataclasses.dataclass(frozen=True)
class ClassGuess:
    """A class that a picture was taken for, its probability, whether it is right."""

    name: str
    percent: float
    right: bool


@dataclasses.dataclass(frozen=True)
class AttendedSentence:
    """A sentence, its share of LGR's attention in percent, its cosine to the image."""

    text: str
    percent: float
    cosine: float


@dataclasses.dataclass(frozen=True)
class ExplainedPicture:
    """A picture and what was said of it.

    Attributes:
      source: a data URI.
      size: width and height at which it is shown, in pixels.
      enlarged: whether its own pixels are to be seen.
      name: of its class.
      right: whether the first answer is that.
      answers: the likeliest classes.
      branches: probability in percent of the first answer by each branch.
      sentences: of the first answer, the most attended first.
    """

    source: str
    size: tuple[int, int]
    enlarged: bool
    name: str
    right: bool
    answers: tuple[ClassGuess, ...]
    branches: Mapping[str, float]
    sentences: tuple[AttendedSentence, ...]


@dataclasses.dataclass(frozen=True)
class DataGroup:
    """How many classes and images a group has; `GROUPS` by the standard rule."""

    group: str
    classes: int
    train_images: int
    images: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Setting:
    """A key of the configuration, and the default where that is another."""

    key: str
    value: str
    default: str | None


@dataclasses.dataclass(frozen=True)
class StageCost:
    """What a stage took, and its share of all seconds in percent."""

    stage: str
    images_seen: int
    duration: str
    percent: float


@dataclasses.dataclass(frozen=True)
class Content:
    """The whole page; what a run has not is None or empty.

    Attributes:
      title: of the data set.
      method: name of the system.
      facts: what describes the run, a few words each.
      split: whose accuracies the header shows.
      tiles: overall and each group.
      tables: of every split.
      notes: on anchors, a sentence each.
      train_counts: of each class.
      groups: of the data.
      data: other facts of the data.
      per_class: accuracy of each class.
      confusion: the most confused classes; the columns are the same classes.
      curves: of each stage.
      selection: name of the anchors' selection.
      anchors: examples of it.
      explained: pictures with predictions.
      explained_split: which they are of.
      settings: keys of the configuration, by section.
      costs: of each stage.
      duration: of all stages.
      images_seen: in training.
      versions: of everything that had a part.
      made_on: the date, if the page is to have one.
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
    curves: tuple[StageCurves, ...]
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
