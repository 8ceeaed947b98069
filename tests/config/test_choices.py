"""Choices of keys are those of the code that reads them."""

import pytest

from vl_ltr_jax.config.settings import KEYS
from vl_ltr_jax.data.batches import sampler
from vl_ltr_jax.data.images import transforms
from vl_ltr_jax.data.text import class_names, corpus, prompts
from vl_ltr_jax.method import anss, losses, pair_losses
from vl_ltr_jax.models import layers


@pytest.mark.parametrize(
    ("key", "choices"),
    [
        ("data.layout", class_names.LAYOUTS),
        ("data.prompts", prompts.PROMPTS),
        ("data.corpus_rule", corpus.CORPUS_RULES),
        ("data.train_recipe", transforms.TRAIN_RECIPES),
        ("data.eval_recipe", transforms.EVAL_RECIPES),
        ("data.normalization", ("model", *transforms.NORMALIZATIONS)),
        ("model.remat", layers.REMAT_POLICIES),
        ("init.activation", ("auto", *layers.ACTIVATIONS)),
        ("anchors.selection", anss.SELECTIONS),
        ("pretrain.sampling", sampler.SAMPLINGS),
        ("pretrain.distillation", (*losses.DISTILLATION_FORMS, "none")),
        ("pretrain.contrastive_reduction", losses.REDUCTIONS),
        ("pretrain.loss_form", pair_losses.FORMS),
    ],
)
def test_a_key_has_the_choices_of_its_reader(key, choices):
    """Breaks if a choice is added at one side only."""
    assert set(KEYS[key].choices) == set(choices)
