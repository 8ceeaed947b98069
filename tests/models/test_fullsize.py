"""The models of the paper at their full size, with weights made by a formula."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vl_ltr_jax.method.losses import contrastive_logits
from vl_ltr_jax.models.clip import PRESETS, Clip
from worlds import golden
from worlds.clip_oracle import from_openai


def draw(tag: str, name: str, shape: list[int]) -> np.ndarray:
    """The value the goldens were made with, by the kind of parameter."""
    seed = zlib.crc32(f"{tag}:{name}".encode()) & 0x7FFFFFFF
    n = np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
    if name == "logit_scale":
        return np.float32(np.log(1 / 0.07)).reshape(())
    if name.endswith("running_var"):
        return 1 + 0.25 * np.abs(n)
    if name.endswith("running_mean"):
        return 0.1 * n
    if n.ndim == 1 and name.endswith("weight"):
        return (0.6 if name.endswith("bn3.weight") else 1) + 0.1 * n
    if n.ndim == 1:
        return 0.05 * n
    if n.ndim == 4:
        return n * np.float32(1 / np.prod(shape[1:])) ** 0.5
    if name.endswith(("attnpool.q_proj.weight", "attnpool.k_proj.weight")):
        return 0.06 * n
    if name.endswith(("positional_embedding", "token_embedding.weight")):
        return 0.1 * n
    return 0.03 * n


@pytest.mark.parametrize(
    ("preset", "tag", "file"),
    [
        ("ViT-B/16", "fixtures-vit16", "CVLP_vit16"),
        ("RN50", "fixtures-r50", "CVLP_r50"),
    ],
)
def test_authors_full_size_model(preset, tag, file):
    """Features and logits of three images and sentences.

    Broken by one layer too few, by heads of another width than 64, by positions in
    another order: what the tiny models may be too small to show.
    """
    arrays = golden.load(f"fullsize/{file}.npz")
    shapes = golden.load("fullsize/state_dict_shapes.json")[file]
    state = {
        name: draw(tag, name, shape)
        for name, shape in shapes.items()
        if not name.endswith("num_batches_tracked")
    }
    first = state["visual.conv1.weight"].ravel()[:8]
    np.testing.assert_allclose(first, arrays["check_conv1_first8"], rtol=1e-6)
    variables = from_openai(state, PRESETS[preset])
    del state

    rng = np.random.RandomState(int(arrays["image_seed"]))
    coarse = rng.standard_normal((3, 3, 7, 7)).astype(np.float32)
    fine = rng.standard_normal((3, 3, 224, 224)).astype(np.float32)
    images = 1.5 * coarse.repeat(32, axis=2).repeat(32, axis=3) + 0.5 * fine
    np.testing.assert_allclose(
        images.ravel()[:8], arrays["check_image_first8"], rtol=1e-6
    )

    image_emb, text_emb = jax.jit(Clip(PRESETS[preset]).apply)(
        variables,
        jnp.asarray(images.transpose(0, 2, 3, 1)),
        jnp.asarray(arrays["tokens"], jnp.int32),
    )
    logits = contrastive_logits(
        image_emb, text_emb, jnp.asarray(variables["params"]["logit_scale"])
    )
    golden.close(image_emb, arrays["image_features"], 1e-4)
    golden.close(text_emb, arrays["text_features"], 1e-4)
    golden.close(logits, arrays["logits_per_image"], 1e-4)
