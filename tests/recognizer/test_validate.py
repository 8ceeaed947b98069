"""Damaged recognizers, arrays that do not fit, and unsupported requests."""

import shutil

import jax
import numpy as np
import pytest

import vl_ltr_jax
from vl_ltr_jax.recognizer import validate
from vl_ltr_jax.recognizer.card import RecognizerError
from vl_ltr_jax.storage.artifact import ArtifactError
from worlds import small_recognizer

SENTENCES = ["A jade thing is jade."]


@pytest.fixture(scope="module")
def recognizer():
    recognizer = small_recognizer.make()
    width = recognizer.card.clip_config.embed_dim
    recognizer.reference = np.ones((5, width), np.float32)
    return recognizer


@pytest.fixture(scope="module")
def saved(recognizer, tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "recognizer"
    recognizer.save(directory)
    return directory


@pytest.mark.parametrize(
    "name", ["recognizer.json", "recognizer.safetensors", "vocab.json"]
)
def test_a_changed_file_is_refused(saved, tmp_path, name):
    copy = shutil.copytree(saved, tmp_path / "copy")
    (copy / name).write_bytes((copy / name).read_bytes().replace(b"e", b"f", 1))
    with pytest.raises(ArtifactError, match=name):
        vl_ltr_jax.load(copy)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("head/wq", lambda array: array[:-1]),
        ("added/offsets", lambda array: np.zeros(1, np.float32)),
        ("anchors/padding", lambda array: array[:-1]),
        ("towers/params/logit_scale", lambda array: np.zeros(2, np.float32)),
        ("reference", lambda array: array[:, 1:]),
    ],
)
def test_arrays_that_do_not_fit_are_named(recognizer, name, change):
    tree = jax.tree.map(lambda leaf: leaf, recognizer.arrays)  # other dicts
    tree["reference"] = recognizer.reference
    *parents, last = name.split("/")
    node = tree
    for parent in parents:
        node = node[parent]
    node[last] = change(node[last])
    reference = tree.pop("reference")
    with pytest.raises(ValueError, match=name.partition("/")[0]):
        validate.check(recognizer.card, tree, reference)


@pytest.mark.parametrize(
    "request_of",
    [
        lambda it: it.predict(np.zeros((4, 4, 3))),
        lambda it: it.predict(np.zeros((4, 4, 3), np.uint8), top_k=0),
        lambda it: it.add_class("jade", SENTENCES, max_taken=5.0),
        lambda it: it.add_class(" azure ", SENTENCES),
        lambda it: it.add_class(" ", SENTENCES),
        lambda it: it.add_class("jade", ["", " \n"]),
    ],
)
def test_unsupported_requests_are_refused(recognizer, request_of):
    card = recognizer.card
    with pytest.raises(RecognizerError):
        request_of(recognizer)
    assert recognizer.card is card
