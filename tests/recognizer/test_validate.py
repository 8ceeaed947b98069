"""Damaged recognizers, arrays that do not fit, and unsupported requests."""

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


def test_a_changed_file_is_refused(recognizer, tmp_path):
    recognizer.save(tmp_path / "saved")
    path = tmp_path / "saved" / "vocab.json"
    path.write_bytes(path.read_bytes().replace(b"e", b"f", 1))
    with pytest.raises(ArtifactError, match="vocab.json"):
        vl_ltr_jax.load(tmp_path / "saved")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("head/wq", lambda array: array[:-1]),
        ("added/offsets", lambda array: np.zeros(1, np.float32)),
        ("anchors/padding", lambda array: array[:-1]),
        ("towers/params/logit_scale", lambda array: np.zeros(2, np.float32)),
    ],
)
def test_arrays_that_do_not_fit_are_named(recognizer, name, change):
    def change_one(path, leaf):
        at = jax.tree_util.keystr(path, simple=True, separator="/")
        return change(leaf) if at == name else leaf

    arrays = jax.tree_util.tree_map_with_path(change_one, recognizer.arrays)
    with pytest.raises(ValueError, match=name.partition("/")[0]):
        validate.check(recognizer.card, arrays, recognizer.reference)


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
