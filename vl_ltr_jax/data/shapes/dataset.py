"""The embedded long-tailed set: pictures, names and articles without any download.

Sixty invented species in twenty genera. The species of a genus differ in one or two
traits, traits are shared across genera, and the names tell nothing of looks. Size,
arrangement and ground change from picture to picture: three pictures do not tell what
makes a class, but its text does. Training counts fall exponentially from 300 to 3; how
frequent a class is has nothing to do with its looks. Stands in for ImageNet-LT,
Places-LT and iNaturalist 2018.
"""

import numpy as np
from jaxtyping import Int
from PIL import Image

from vl_ltr_jax.data.shapes.articles import article, binomials
from vl_ltr_jax.data.shapes.looks import TRAITS, WORDS, Looks, in_circumstances
from vl_ltr_jax.data.shapes.render import Style, render
from vl_ltr_jax.data.sources.dataset import LongTailedData, Split
from vl_ltr_jax.runtime.errors import UserError

NUM_GENERA, SPECIES_PER_GENUS = 20, 3
NUM_CLASSES = NUM_GENERA * SPECIES_PER_GENUS
MOST_FREQUENT, LEAST_FREQUENT = 300, 3
VAL_PER_CLASS, TEST_PER_CLASS = 10, 25
# Harder than the pictures the tiny CLIP was trained on, as iNaturalist is for CLIP.
FIELD_STYLE = Style(
    clutter=12, specks=14, occlusion=0.35, shade=15, noise=20, cast=(1.05, 0.98, 0.86)
)
_SPLITS = ("train", "val", "test")


class ShapesError(UserError):
    """Pictures too small to show shapes."""


def train_counts(rng: np.random.Generator) -> Int[np.ndarray, "C"]:
    """Exponential long tail, dealt to the classes at random."""
    ratio = LEAST_FREQUENT / MOST_FREQUENT
    tail = MOST_FREQUENT * ratio ** (np.arange(NUM_CLASSES) / (NUM_CLASSES - 1))
    return rng.permutation(np.round(tail).astype(np.int32))


def traits(looks: Looks) -> tuple[str, ...]:
    """The attributes that make a class."""
    return tuple(getattr(looks, name) for name in TRAITS)


def class_looks(rng: np.random.Generator) -> tuple[Looks, ...]:
    """Distinct in their traits: each genus varies a base in one trait."""
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
    """Makes the embedded set; pictures are drawn when read.

    Args:
        seed: every seed is another world: looks, names, articles, counts, pictures.
        image_size: side of the pictures in pixels.

    Returns:
        60 classes with 300 to 3 training, 10 validation and 25 test pictures each.

    Raises:
        ValueError: if `image_size` is below 16, where nothing can be told apart.
    """
    if image_size < 16:
        raise ShapesError(
            f"image_size is {image_size}, but the shapes need at least 16 pixels a "
            "side; the tiny CLIP takes 32"
        )
    looks_rng, name_rng, text_rng, count_rng = (
        np.random.default_rng([seed, k]) for k in range(4)
    )
    looks = class_looks(looks_rng)
    names = binomials(NUM_GENERA, SPECIES_PER_GENUS, name_rng)
    others = np.roll(np.arange(NUM_CLASSES), SPECIES_PER_GENUS + 1)
    texts = tuple(
        article(names[k], names[others[k]], looks[k], text_rng)
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
        drawn: dict[int, Image.Image] = {}  # unlike a cache, it can be pickled

        def picture(index: int) -> Image.Image:
            if index not in drawn:
                rng = np.random.default_rng([seed, 4 + _SPLITS.index(name), index])
                seen = in_circumstances(looks[labels[index]], rng)
                pixels = render(seen, FIELD_STYLE, rng, image_size)
                drawn[index] = Image.fromarray(pixels)
            return drawn[index]

        def describe(index: int) -> str:
            return f"shapes {name} picture {index} of {names[labels[index]]}"

        return Split(labels=labels, fetch=picture, describe=describe)

    return LongTailedData(
        name="shapes",
        class_names=names,
        class_texts=texts,
        train=split("train"),
        val=split("val"),
        test=split("test"),
    )
