"""The embedded long-tailed set: pictures, names and articles without any download.

Sixty invented species in twenty genera. The species of a genus differ in one or two
traits, genera share traits, and names are independent of looks. Size, arrangement and
ground change from picture to picture, so three pictures do not define a class, but its
text does. Training counts fall exponentially from 300 to 3, independent of looks.
Stands in for ImageNet-LT, Places-LT and iNaturalist 2018.
"""

import numpy as np
from jaxtyping import Int
from PIL import Image

from vl_ltr_jax.data.shapes.articles import article, binomials
from vl_ltr_jax.data.shapes.looks import TRAITS, WORDS, Looks, in_circumstances
from vl_ltr_jax.data.shapes.render import Style, render
from vl_ltr_jax.data.sources.dataset import SPLITS, LongTailedData, Split
from vl_ltr_jax.runtime.errors import UserError

NUM_GENERA, SPECIES_PER_GENUS = 20, 3
NUM_CLASSES = NUM_GENERA * SPECIES_PER_GENUS
MOST_FREQUENT, LEAST_FREQUENT = 300, 3
VAL_PER_CLASS, TEST_PER_CLASS = 10, 25
# Harder than the training pictures of the tiny CLIP, as iNaturalist is for CLIP.
FIELD_STYLE = Style(
    clutter=12, specks=14, occlusion=0.35, shade=15, noise=20, cast=(1.05, 0.98, 0.86)
)


class ShapesError(UserError):
    """Pictures too small to show shapes."""


def train_counts(rng: np.random.Generator) -> Int[np.ndarray, "C"]:
    """Returns an exponential long tail, assigned to the classes at random."""
    ratio = LEAST_FREQUENT / MOST_FREQUENT
    tail = MOST_FREQUENT * ratio ** (np.arange(NUM_CLASSES) / (NUM_CLASSES - 1))
    return rng.permutation(np.round(tail).astype(np.int32))


def traits(looks: Looks) -> tuple[str, ...]:
    """Returns the attributes that define a class."""
    return tuple(getattr(looks, name) for name in TRAITS)


def class_looks(rng: np.random.Generator) -> tuple[Looks, ...]:
    """Returns the looks of each class; a genus varies a base in one trait."""
    columns = []
    for attribute in Looks._fields:
        values = np.array(list(WORDS[attribute]))
        columns.append(rng.permutation(np.resize(rng.permutation(values), NUM_GENERA)))
    looks: dict[tuple[str, ...], Looks] = {}
    for genus in range(NUM_GENERA):
        base = Looks(*(str(column[genus]) for column in columns))
        while len(looks) < (genus + 1) * SPECIES_PER_GENUS:
            trait = TRAITS[rng.integers(len(TRAITS))]
            drawn = base._replace(**{trait: str(rng.choice(list(WORDS[trait])))})
            looks.setdefault(traits(drawn), drawn)
    return tuple(looks.values())


def load(seed: int = 0, image_size: int = 32) -> LongTailedData:
    """Returns the embedded set; a picture is drawn at its first read.

    Args:
      seed: of looks, names, articles, counts and pictures.
      image_size: side of the pictures in pixels.

    Raises:
      ShapesError: `image_size` is below 16.
    """
    if image_size < 16:
        raise ShapesError(
            f"model.image_size={image_size}: shapes need at least 16 pixels a side. "
            "The tiny CLIP takes 32."
        )
    looks_rng, name_rng, text_rng, count_rng = (
        np.random.default_rng([seed, k]) for k in range(4)
    )
    looks = class_looks(looks_rng)
    names = binomials(NUM_GENERA, SPECIES_PER_GENUS, name_rng)
    relatives = np.roll(np.arange(NUM_CLASSES), SPECIES_PER_GENUS + 1)
    texts = tuple(
        article(names[k], names[relatives[k]], looks[k], text_rng)
        for k in range(NUM_CLASSES)
    )
    counts = {
        "train": train_counts(count_rng),
        "val": np.full(NUM_CLASSES, VAL_PER_CLASS),
        "test": np.full(NUM_CLASSES, TEST_PER_CLASS),
    }

    def split(name: str) -> Split:
        classes = np.arange(NUM_CLASSES, dtype=np.int32)
        labels = np.repeat(classes, counts[name])
        drawn: dict[int, Image.Image] = {}  # unlike a cache, it travels to workers

        def picture(index: int) -> Image.Image:
            if index not in drawn:
                rng = np.random.default_rng([seed, 4 + SPLITS.index(name), index])
                look = in_circumstances(looks[labels[index]], rng)
                pixels = render(look, FIELD_STYLE, rng, image_size)
                drawn[index] = Image.fromarray(pixels)
            return drawn[index]

        def describe(index: int) -> str:
            return f"shapes {name} picture {index} of {names[labels[index]]}"

        return Split(labels=labels, fetch=picture, describe=describe)

    train, val, test = map(split, SPLITS)
    return LongTailedData("shapes", names, texts, train, val, test)
