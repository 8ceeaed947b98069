"""tau-normalisation: weights divided by a power of their length (Kang et al., 2020)."""

import numpy as np
from jaxtyping import Float32, Int

from vl_ltr_jax.run.run import Run
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.systems.decoupled import Decoupled, Linear, embed_split

_BLOCK_SIZE = 1024  # images with logits in memory
TAUS = tuple(round(0.05 * step, 2) for step in range(41))  # 0 to 2


class ValidationError(UserError):
    """A validation split without images."""


class TauNormalized(Decoupled):
    """w_c / |w_c|^tau, without biases; tau is chosen on the validation images.

    iNaturalist 2018 has the same images for validation and test. There the choice is
    made on the test images, which flatters the accuracy.
    """

    name = "tau_normalized"
    title = "tau-normalised"

    def make(self, run: Run) -> Linear:
        """Returns the Baseline's weights, normalised by the best tau."""
        kernel = self.finetuned(run).kernel
        towers, split = run.finetuned_towers(), run.inputs.data.val
        features, labels = embed_split(run, towers, split)
        tau, accuracy = choose_tau(kernel, features, labels)
        return Linear(
            normalized(kernel, tau),
            np.zeros(kernel.shape[1], np.float32),
            summary={"tau": tau, "val_class_accuracy": accuracy},
        )


def normalized(
    kernel: Float32[np.ndarray, "D C"], tau: float
) -> Float32[np.ndarray, "D C"]:
    """Returns columns divided by their length^tau; zero columns stay zero."""
    lengths = np.linalg.norm(kernel.astype(np.float64), axis=0)
    return (kernel / np.maximum(lengths, 1e-12) ** tau).astype(np.float32)


def choose_tau(
    kernel: Float32[np.ndarray, "D C"],
    features: Float32[np.ndarray, "N D"],
    labels: Int[np.ndarray, "N"],
) -> tuple[float, float]:
    """Returns the tau with the best mean accuracy of classes, and that in percent.

    On balanced images this is the top-1. Of equally good values the smallest wins.

    Raises:
      ValidationError: the split has no image.
    """
    if not len(labels):
        raise ValidationError(
            "method='tau_normalized': there is no validation image to choose tau on. "
            "List some, or take another method."
        )
    counts = np.bincount(labels)
    weights = 1 / counts[labels] / (counts > 0).sum()
    lengths = np.maximum(np.linalg.norm(kernel.astype(np.float64), axis=0), 1e-12)
    factors = [(lengths**-tau).astype(np.float32) for tau in TAUS]
    accuracies = np.zeros(len(TAUS))
    for start in range(0, len(labels), _BLOCK_SIZE):
        rows = slice(start, start + _BLOCK_SIZE)
        logits = features[rows] @ kernel
        for place, factor in enumerate(factors):
            hits = np.argmax(logits * factor, axis=1) == labels[rows]
            accuracies[place] += weights[rows] @ hits
    best = int(np.argmax(np.round(accuracies, 9)))  # sums of equal hits may differ
    return TAUS[best], 100 * float(accuracies[best])
