"""Models by hub id, from the cache, and the errors without one."""

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


def test_a_model_outside_the_cache_is_refused(cache):
    with pytest.raises(hub.HubError, match="other/clip-tiny"):
        clip_files.load_clip("other/clip-tiny")


@pytest.mark.parametrize("kind", ["RepositoryNotFoundError", "GatedRepoError"])
def test_a_refusal_of_the_hub_is_a_hub_error(monkeypatch, kind):
    import huggingface_hub
    from huggingface_hub import errors

    def refuse(*args, **kwargs):
        error = getattr(errors, kind)
        raise error.__new__(error)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(hub.HubError, match="other/clip-tiny"):
        hub.local_path("other/clip-tiny")
