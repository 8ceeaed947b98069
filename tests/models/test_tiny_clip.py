"""The shipped tiny CLIP and the script that trains it."""

import jax
import jax.numpy as jnp
import numpy as np

from vl_ltr_jax.commands import train_tiny_clip
from vl_ltr_jax.data.images.transforms import normalize
from vl_ltr_jax.data.shapes import dataset
from vl_ltr_jax.data.text.corpus import build_corpus
from vl_ltr_jax.data.text.tokenizer import Tokenizer, trim
from vl_ltr_jax.models.clip import PRESETS, Clip
from vl_ltr_jax.models.port.clip_files import load_clip

CHANCE = 100 / 60


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_zero_shot_by_article_is_far_better_than_by_name():
    """All sentences count; two thirds of them do not describe looks."""
    config, variables = load_clip(train_tiny_clip.SHIPPED)
    assert config == PRESETS["ViT-tiny"]
    model, tokenizer = Clip(config), Tokenizer.from_directory(train_tiny_clip.SHIPPED)
    data = dataset.load()
    corpus = build_corpus(data.class_names, data.class_texts, "none")
    pictures = [np.asarray(data.val.read(k)) for k in range(len(data.val))]
    pixels = jnp.asarray(np.stack(pictures))
    encode = jax.jit(model.apply, static_argnames="method")
    images = encode(variables, normalize(pixels, "clip"), method="encode_image")

    def embed(sentences):
        tokens = trim(tokenizer.encode(sentences))
        return unit(np.asarray(encode(variables, tokens, method="encode_text")))

    def accuracy(texts):
        nearest = (unit(images) @ texts.T).argmax(axis=1)
        return 100 * float((nearest == data.val.labels).mean())

    sentences = embed(corpus.sentences)
    means = [sentences[corpus.labels == c].mean(axis=0) for c in range(60)]
    assert 8 * CHANCE < accuracy(unit(np.stack(means))) < 75
    assert accuracy(embed([f"a photo of {n}." for n in data.class_names])) < 3 * CHANCE


def test_batches_depend_on_seed_and_step_alone():
    tokenizer = Tokenizer.from_directory(train_tiny_clip.SHIPPED)

    def batch(seed, step):
        return train_tiny_clip.training_batch(
            tokenizer, seed=seed, step=step, batch_size=4, image_size=32
        )

    first, again = batch(0, 3), batch(0, 3)
    for key in first:
        assert np.array_equal(first[key], again[key])
    assert not np.array_equal(first["image"], batch(0, 4)["image"])
    assert not np.array_equal(first["image"], batch(1, 3)["image"])


def test_training_lowers_the_loss_and_writes_a_clip(tmp_path, capsys):
    losses = train_tiny_clip.train(
        tmp_path, steps=24, batch_size=16, learning_rate=2e-3
    )
    assert np.mean(losses[-6:]) < np.mean(losses[:6])
    config, _ = load_clip(tmp_path)
    assert config == PRESETS["ViT-tiny"]
    assert "tiny CLIP: 24 steps in " in capsys.readouterr().err
