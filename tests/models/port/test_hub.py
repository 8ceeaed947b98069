"""Models by hub id: from the cache, and what is said where there is none."""

import numpy as np
import pytest
import torch

from vl_ltr_jax.models.port import clip_files, hub
from vl_ltr_jax.models.port.tensor_files import read_tensors
from worlds.clip_oracle import hugging_face_clip


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A hub cache with one model in it, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repo = tmp_path / "hub" / "models--someone--clip-tiny"
    revision = "0123456789abcdef0123456789abcdef01234567"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(revision)
    hugging_face_clip().save_pretrained(repo / "snapshots" / revision)
    return repo


def test_hub_ids_are_found_in_the_cache(cache, tmp_path, monkeypatch):
    config, variables = clip_files.load_clip("someone/clip-tiny")
    assert config.vision.image_size == 32
    monkeypatch.chdir(tmp_path)
    half = hugging_face_clip().to(torch.float16)
    half.save_pretrained(tmp_path / "someone" / "clip-tiny")
    dtype = read_tensors(clip_files.find_weights("someone/clip-tiny"))["logit_scale"]
    assert dtype.dtype == np.float16  # a path wins


def test_a_model_that_is_nowhere_says_what_to_do(cache):
    with pytest.raises(hub.HubError, match="not in the hub's cache.*hf download other"):
        clip_files.load_clip("other/clip-tiny")


@pytest.mark.parametrize(
    "kind, words",
    [
        ("RepositoryNotFoundError", "no such model or revision on the hub"),
        ("GatedRepoError", "accept them on its page and `hf auth login`"),
    ],
)
def test_what_the_hub_refuses_says_what_to_do(monkeypatch, kind, words):
    import huggingface_hub
    from huggingface_hub import errors

    def refuse(*args, **kwargs):
        kind_of_error = getattr(errors, kind)
        raise kind_of_error.__new__(kind_of_error)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(hub.HubError, match=words):
        hub.local_path("other/clip-tiny")
