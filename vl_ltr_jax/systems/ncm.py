"""NCM: the class whose mean feature is nearest (Kang et al., 2020).

Features are centred by the mean of all training features, then scaled to length 1. So
are the images that are classified.
"""

import numpy as np
from jaxtyping import Float, Float32, Int

from vl_ltr_jax.run.run import Run
from vl_ltr_jax.systems.decoupled import Decoupled, Linear, embed_split


class Ncm(Decoupled):
    """Nearest class mean."""

    name = "ncm"
    title = "NCM"

    def make(self, run: Run) -> Linear:
        """Returns the means of the training images, without augmentation."""
        towers, split = run.finetuned_towers(), run.inputs.data.train
        features, labels = embed_split(run, towers, split)
        return nearest_class_mean(features, labels, run.inputs.num_classes)


def nearest_class_mean(
    features: Float32[np.ndarray, "N D"], labels: Int[np.ndarray, "N"], num_classes: int
) -> Linear:
    """Returns the linear form: -|u - m_c|^2 is 2 u.m_c - |m_c|^2, less a constant.

    A class without a training image has no mean and is never the nearest.
    """
    centre = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    means, present = class_means(features, labels, centre, num_classes)
    bias = np.where(present, -np.sum(means**2, axis=1), -np.inf)
    kernel = np.ascontiguousarray(2 * means.T)
    return Linear(kernel.astype(np.float32), bias.astype(np.float32), centre)


def class_means(
    features: Float32[np.ndarray, "N D"],
    labels: Int[np.ndarray, "N"],
    centre: Float32[np.ndarray, "D"],
    num_classes: int,
) -> tuple[Float[np.ndarray, "C D"], np.ndarray]:
    """Returns the mean of each class's centred unit features, and a mask of them."""
    sums = np.zeros((num_classes, features.shape[1]))
    # Class by class: a copy of all features would double the memory.
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels, minlength=num_classes))
    for label, rows in enumerate(np.split(order, ends[:-1])):
        centred = (features[rows] - centre).astype(np.float64)
        lengths = np.linalg.norm(centred, axis=1, keepdims=True)
        sums[label] = (centred / np.maximum(lengths, 1e-12)).sum(axis=0)
    counts = np.bincount(labels, minlength=num_classes)[:, None]
    return sums / np.maximum(counts, 1), counts[:, 0] > 0
