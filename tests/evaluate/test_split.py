"""Scores of a split."""

import jax.numpy as jnp
import numpy as np
import pytest

from vl_ltr_jax.evaluate import split
from vl_ltr_jax.runtime import mesh as meshes


def test_scores_that_are_not_finite_are_refused_with_their_head():
    def scores(frozen, images):
        heads = {"lgr": jnp.full((8, 3), jnp.nan).at[:4].set(0.0)}
        return split.Scored(heads, jnp.zeros((8, 2)))

    batch = {
        "image": np.zeros((8, 4, 4, 3), np.uint8),
        "label": np.zeros(8, np.int32),
        "mask": np.arange(8) < 7,
    }
    count = split.make_count(scores, 3)
    with pytest.raises(split.NonFiniteScoreError, match="head 'lgr'"):
        split.evaluate_split(count, split.Frozen({}), [batch], meshes.make_mesh())
