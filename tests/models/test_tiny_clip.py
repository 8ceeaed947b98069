"""The shipped tiny CLIP and the script that trains it."""

import jax
import numpy as np
import pytest

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


@pytest.fixture(scope="module")
def embeddings():
    """Unit embeddings of the validation pictures, sentences and names of the set."""
    config, variables = load_clip(train_tiny_clip.SHIPPED)
    assert config == PRESETS["ViT-tiny"]
    model, tokenizer = Clip(config), Tokenizer.from_directory(train_tiny_clip.SHIPPED)
    data = dataset.load()
    corpus = build_corpus(data.class_names, data.class_texts, "none")
    pixels = np.stack([np.asarray(data.val.read(k)) for k in range(len(data.val))])

    @jax.jit
    def image_tower(images):
        return model.apply(variables, normalize(images, "clip"), method="encode_image")

    @jax.jit
    def text_tower(tokens):
        return model.apply(variables, tokens, method="encode_text")

    def texts(sentences):
        return unit(np.asarray(text_tower(trim(tokenizer.encode(sentences)))))

    names = [f"a photo of {name}." for name in data.class_names]
    return {
        "image": unit(np.asarray(image_tower(pixels))),
        "label": data.val.labels,
        "sentence": texts(corpus.sentences),
        "sentence_label": corpus.labels,
        "name": texts(names),
    }


def top1(scores, labels):
    return 100 * float((scores.argmax(axis=1) == labels).mean())


def test_zero_shot_by_name_is_near_chance(embeddings):
    accuracy = top1(embeddings["image"] @ embeddings["name"].T, embeddings["label"])
    assert accuracy < 3 * CHANCE, accuracy


def test_zero_shot_by_article_is_well_above_chance(embeddings):
    """All sentences count; two thirds of them do not describe looks."""
    labels = embeddings["sentence_label"]
    means = np.stack(
        [embeddings["sentence"][labels == c].mean(axis=0) for c in range(60)]
    )
    accuracy = top1(embeddings["image"] @ unit(means).T, embeddings["label"])
    assert 8 * CHANCE < accuracy < 75, accuracy


def test_shipped_files_fit_in_eight_megabytes():
    files = list(train_tiny_clip.SHIPPED.iterdir())
    assert sum(path.stat().st_size for path in files) <= 8 * 2**20


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
