"""Looks of the embedded world: seven attributes and the words that name them.

A picture of the embedded set shows one composition of seven attributes. Shape, colour,
pattern and edge are the traits of a class. The others are circumstances, which differ
from picture to picture. Every value has everyday words, which train the tiny CLIP, and
learned words, which only the encyclopaedia uses. Not in the paper: it stands in for the
photographs and the Wikipedia of VL-LTR's data sets.
"""

from typing import NamedTuple

import numpy as np


class Looks(NamedTuple):
    """One composition; every field is a key of `WORDS[field]`."""

    shape: str
    colour: str
    pattern: str
    size: str
    arrangement: str
    ground: str
    edge: str


class Words(NamedTuple):
    """Adjectives or phrases of a value: everyday ones and learned ones."""

    everyday: tuple[str, ...]
    learned: tuple[str, ...]


WORDS: dict[str, dict[str, Words]] = {
    "shape": {
        "circle": Words(("round", "circular", "disc-shaped"), ("orbicular",)),
        "square": Words(("square", "four-sided"), ("quadrate", "box-like")),
        "triangle": Words(("triangular", "three-sided"), ("deltoid", "wedge-shaped")),
        "star": Words(("star-shaped", "five-pointed"), ("stellate", "starry")),
        "cross": Words(("cross-shaped", "plus-shaped"), ("cruciform",)),
        "ring": Words(("ring-shaped", "hollow and round"), ("annular", "hoop-like")),
        "crescent": Words(
            ("crescent-shaped", "moon-shaped"), ("lunate", "sickle-like")
        ),
        "heart": Words(("heart-shaped", "heart-like"), ("cordate",)),
        "hexagon": Words(("hexagonal", "six-sided"), ("six-cornered", "cell-like")),
        "arrow": Words(("arrow-shaped", "arrow-like"), ("sagittate", "dart-like")),
        "drop": Words(("drop-shaped", "tear-shaped"), ("guttate", "pear-like")),
        "leaf": Words(("leaf-shaped", "pointed oval"), ("lanceolate", "almond-like")),
    },
    "colour": {
        "red": Words(("red", "crimson", "scarlet"), ("vermilion", "ruby")),
        "orange": Words(("orange", "tangerine"), ("amber", "apricot")),
        "yellow": Words(("yellow", "lemon yellow"), ("sulphur", "canary")),
        "green": Words(("green", "leaf green"), ("emerald", "verdant")),
        "teal": Words(("teal", "turquoise"), ("cyan", "sea-green")),
        "blue": Words(("blue", "deep blue"), ("cobalt", "azure")),
        "purple": Words(("purple", "violet"), ("plum", "amethyst")),
        "pink": Words(("pink", "rose"), ("salmon", "blush")),
        "brown": Words(("brown", "chestnut"), ("umber", "chocolate")),
        "white": Words(("white", "snow white"), ("ivory", "milky")),
        "grey": Words(("grey", "silver grey"), ("ashen", "leaden")),
        "black": Words(("black", "jet black"), ("sable", "sooty")),
    },
    "pattern": {
        "plain": Words(("plain", "solid", "unmarked"), ("immaculate", "uniform")),
        "striped": Words(("striped", "banded"), ("barred", "streaked")),
        "dotted": Words(("dotted", "spotted"), ("stippled", "freckled")),
        "checked": Words(("checked", "chequered"), ("tessellated", "lattice-marked")),
        "eyed": Words(("eyed", "centre-spotted"), ("ocellate", "bull's-eyed")),
    },
    "size": {
        "small": Words(("small", "little", "tiny"), ("dwarf", "diminutive")),
        "large": Words(("large", "big"), ("bulky", "sizeable")),
    },
    "arrangement": {
        "single": Words(("alone", "on its own"), ("solitary", "singly")),
        "pair": Words(("in a pair", "two together"), ("geminate", "in twos")),
        "row": Words(("three in a row", "in a line"), ("in file", "three abreast")),
        "block": Words(("four in a block", "two by two"), ("in tetrads", "in fours")),
        "wreath": Words(("five in a wreath", "in a wreath"), ("whorled", "in fives")),
    },
    "ground": {
        "night": Words(("on a dark ground", "in the dark"), ("over peat", "by night")),
        "sand": Words(("on sand", "on a sandy ground"), ("on dunes", "on beaches")),
        "meadow": Words(("on grass", "on a green lawn"), ("in turf", "in pasture")),
        "water": Words(
            ("on water", "on a blue ground"), ("on ponds", "on still lakes")
        ),
        "snow": Words(("on snow", "on a pale ground"), ("on frost", "on ice")),
    },
    "edge": {
        "none": Words(("without an outline", "unbordered"), ("marginless",)),
        "outlined": Words(("outlined", "with a clear border"), ("marginate", "rimmed")),
    },
}

NOUNS = {shape: (shape, f"{shape}s") for shape in WORDS["shape"]} | {
    "circle": ("disc", "discs"),
    "cross": ("cross", "crosses"),
    "leaf": ("leaf", "leaves"),
}
# Colours that vanish into a ground.
_CLASHES = {
    *(("black", "night"), ("white", "snow"), ("green", "meadow")),
    *(("blue", "water"), ("teal", "water")),
}
TRAITS = ("shape", "colour", "pattern", "edge")


def is_visible(looks: Looks) -> bool:
    """Returns True if the colour differs from the ground."""
    return (looks.colour, looks.ground) not in _CLASHES


def random_looks(rng: np.random.Generator) -> Looks:
    """Returns a visible composition of independent, uniform attributes."""
    while True:
        values = (list(WORDS[name]) for name in Looks._fields)
        looks = Looks(*(column[rng.integers(len(column))] for column in values))
        if is_visible(looks):
            return looks


def in_circumstances(looks: Looks, rng: np.random.Generator) -> Looks:
    """Returns the same traits in another size, arrangement and on another ground."""
    traits = {name: getattr(looks, name) for name in TRAITS}
    while True:
        result = random_looks(rng)._replace(**traits)
        if is_visible(result):
            return result


def word_slots(
    looks: Looks, rng: np.random.Generator, learned_share: float
) -> dict[str, str]:
    """Returns words for the slots of a sentence frame.

    Args:
      looks: composition to describe.
      rng: chooses among synonyms.
      learned_share: probability of a learned word instead of an everyday one.

    Returns:
      `colour`, `pattern`, ... by attribute name, and the nouns `noun` and `nouns`.
    """
    slots = dict(zip(("noun", "nouns"), NOUNS[looks.shape], strict=True))
    for attribute, value in zip(Looks._fields, looks, strict=True):
        words = WORDS[attribute][value]
        choices = words.learned if rng.random() < learned_share else words.everyday
        slots[attribute] = choices[rng.integers(len(choices))]
    return slots
