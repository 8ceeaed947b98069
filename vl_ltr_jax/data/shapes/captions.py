"""Captions of random compositions, the only texts that train the tiny CLIP.

They describe looks in everyday words. They contain no class name, no learned word and
no frame of an article.
"""

import string
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from vl_ltr_jax.data.shapes.looks import Looks, word_slots

LIST_SHARE = 0.35
CAPTION_FRAMES = (
    "a photo of {size} {colour} {nouns}.",
    "{colour} {pattern} {nouns} {arrangement}",
    "a picture of {shape} things {ground}.",
    "{size} {nouns}, {edge}, {ground}.",
    "It is {colour} and {pattern}.",
    "The {nouns} are {colour} and appear {arrangement}.",
    "something {shape} and {colour}.",
    "Here the surface is {pattern}.",
    "The whole {noun} is {colour}.",
    "{nouns} {arrangement} {ground}.",
    "One sees {pattern} {nouns}.",
    "They are found {ground}.",
    "They come {arrangement}.",
    "The shape is {shape}, the colour {colour}.",
    "A {size} body, {shape} and {edge}.",
    "a view of {colour} {nouns} {ground}.",
    "Its form is {shape}.",
    "The bodies are {size} and {pattern}.",
    "The {colour} {noun} is {edge}.",
    "{arrangement}: {shape} and {colour}.",
    "a drawing of {size} {colour} {pattern} {nouns} {arrangement} {ground}, {edge}.",
    "{pattern} {colour} {nouns} that are {edge}, {arrangement}, {ground}.",
)


def _mentions(frame: str) -> list[bool]:
    slots = {field for _, field, _, _ in string.Formatter().parse(frame)}
    if slots & {"noun", "nouns"}:
        slots.add("shape")
    return [name in slots for name in Looks._fields]


_MENTIONS = np.array([_mentions(frame) for frame in CAPTION_FRAMES])


def caption(
    looks: Looks, rng: np.random.Generator
) -> tuple[str, Bool[np.ndarray, "7"]]:
    """Returns a partial description, and True for each field of `Looks` in it."""
    slots = word_slots(looks, rng, learned_share=0.0)
    if rng.random() < LIST_SHARE:
        chosen = rng.permutation(len(looks))[: rng.integers(2, 6)]
        mentioned = np.isin(np.arange(len(looks)), chosen)
        return ", ".join(slots[Looks._fields[k]] for k in chosen), mentioned
    frame = rng.integers(len(CAPTION_FRAMES))
    return CAPTION_FRAMES[frame].format(**slots), _MENTIONS[frame]


def truth(
    looks: Sequence[Looks], mentioned: Bool[np.ndarray, "B 7"]
) -> Bool[np.ndarray, "B B"]:
    """Returns True at i, j if the caption of composition j is true of composition i."""
    _, values = np.unique(np.array(looks), return_inverse=True)
    values = values.reshape(len(looks), -1)
    agree = values[:, None] == values[None]
    return (agree | ~mentioned[None]).all(axis=2)
