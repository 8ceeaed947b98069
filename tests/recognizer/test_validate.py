"""Damaged recognizers, and questions that have no answer: one message each."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import vl_ltr_jax
from vl_ltr_jax.recognizer.card import RecognizerError
from vl_ltr_jax.storage.artifact import ArtifactError
from worlds import small_recognizer

SENTENCES = ["A jade thing is jade."]


@pytest.fixture(scope="module")
def recognizer():
    made = small_recognizer.make()
    width = made.card.clip_config.embed_dim
    made.reference = np.ones((5, width), np.float32)
    return made


@pytest.fixture(scope="module")
def saved(recognizer, tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "kept"
    recognizer.save(directory)
    return directory


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prediction": "foo"}, "prediction is 'foo'; allowed are mixture, sum"),
        ({"compute_dtype": "float99"}, "float99"),
        ({"backbone": "ViT-Z"}, "ViT-Z"),
        ({"num_trained": 4}, "4 of them trained"),
        ({"num_trained": "3"}, "num_trained"),
        ({"language_logit_scale": None}, "language_logit_scale"),
        ({"class_names": "abc"}, "str, not a list"),
        ({"image_size": 32}, "positional|embedding|towers"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(saved, tmp_path, changed, words):
    copy = shutil.copytree(saved, tmp_path / "copy")
    card = json.loads((copy / "recognizer.json").read_text())
    (copy / "recognizer.json").write_text(json.dumps({**card, **changed}))
    with pytest.raises(ArtifactError, match=words):
        vl_ltr_jax.load(copy)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("head/wq", lambda array: array[:-1]),
        ("added/offsets", lambda array: np.zeros(1, np.float32)),
        ("anchors/embeddings", lambda array: array * np.float32("nan")),
        ("anchors/padding", lambda array: array[:, :1]),
        ("towers/params/logit_scale", lambda array: np.zeros(2, np.float32)),
        ("reference", lambda array: array[:, 1:]),
    ],
)
def test_arrays_that_do_not_fit_are_refused(saved, tmp_path, name, change):
    copy = shutil.copytree(saved, tmp_path / "copy")
    card = json.loads((copy / "recognizer.json").read_text())
    del card["crc32"]  # an older version's
    (copy / "recognizer.json").write_text(json.dumps(card))
    arrays = load_file(copy / "recognizer.safetensors")
    changed = {**arrays, name: np.array(change(arrays[name]))}
    save_file(changed, copy / "recognizer.safetensors")
    with pytest.raises(ArtifactError, match=name.partition("/")[0]):
        vl_ltr_jax.load(copy)


@pytest.mark.parametrize(
    "ask",
    [
        lambda it: it.predict(np.zeros((0, 4, 3), np.uint8)),
        lambda it: it.predict("nul\0.jpg"),
        lambda it: it.predict(np.zeros((4, 4, 3), np.uint8), top_k=0),
        lambda it: it.explain(np.zeros((4, 4, 3), np.uint8), num_sentences=-1),
        lambda it: it.add_class("jade\ud800", SENTENCES),
        lambda it: it.add_class("jade", SENTENCES, max_taken=5.0),
        lambda it: it.add_class(" azure ", SENTENCES),
    ],
)
def test_what_cannot_be_asked_is_refused(recognizer, ask):
    with pytest.raises(RecognizerError):
        ask(recognizer)
    assert len(recognizer.class_names) == 3
