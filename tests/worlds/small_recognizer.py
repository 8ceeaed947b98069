"""Recognizers of three classes that nobody has trained, made in a second."""

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import unfreeze

from vl_ltr_jax.data.images.transforms import NORMALIZATIONS
from vl_ltr_jax.models.lgr import LanguageGuidedHead
from vl_ltr_jax.models.port import clip_files
from vl_ltr_jax.recognizer import added_classes
from vl_ltr_jax.recognizer.card import ModelCard
from vl_ltr_jax.recognizer.recognizer import Recognizer
from vl_ltr_jax.run import initial

NAMES = ("crimson", "azure", "moss")
SENTENCES = (("It is red.", "It is warm."), ("It is blue.", "It is cold."), ("Moss.",))
IMAGE_SIZE = 16


def make(head="lgr"):
    """The shipped tiny CLIP with a random head, `lgr` or `linear`.

    The last class has one sentence, the others have two.
    """
    rng = np.random.default_rng(0)
    source = initial.model_source("tiny_clip")
    config, towers = clip_files.load_clip(source, image_size=IMAGE_SIZE)
    width = config.embed_dim
    arrays = {"towers": towers}

    def normal(*shape):
        return rng.normal(0, 0.3, shape).astype(np.float32)

    if head == "linear":
        arrays["head"] = {"kernel": normal(width, len(NAMES)), "bias": normal(3)}
    else:
        embeddings = normal(len(NAMES), 2, width)
        padding = np.array([[False, False], [False, False], [False, True]])
        embeddings[padding] = 0
        shapes = jax.eval_shape(
            LanguageGuidedHead(len(NAMES), width, language_logit_scale=1.0).init,
            jax.random.key(0),
            jnp.zeros((1, width)),
            embeddings,
            padding,
        )
        params = jax.tree.map(lambda leaf: normal(*leaf.shape), shapes["params"])
        arrays["head"] = unfreeze(params)
        arrays["anchors"] = {"embeddings": embeddings, "padding": padding}
        arrays["added"] = added_classes.empty(2, width)
    card = ModelCard(
        method="vl_ltr" if head == "lgr" else "fc",
        backbone="ViT-tiny",
        image_size=IMAGE_SIZE,
        compute_dtype="float32",
        normalization=NORMALIZATIONS["clip_4digit"],
        vision_activation="quick_gelu",
        text_activation="quick_gelu",
        eval_recipe="vl_ltr",
        context_length=77,
        head=head,
        prediction="mixture",
        visual_weight=0.5,
        language_logit_scale=1.0,
        num_trained=len(NAMES),
        class_names=NAMES,
        sentences=SENTENCES if head == "lgr" else ((),) * len(NAMES),
    )
    return Recognizer(card, arrays, tokenizer=lambda: source)
