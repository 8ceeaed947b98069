"""Models by hub id, from the cache, and the errors without one."""

import fnmatch

import pytest

from vl_ltr_jax.models.port import clip_files, hub
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


def test_hub_ids_are_in_the_cache(cache, tmp_path, monkeypatch):
    clip_files.load_clip("someone/clip-tiny")
    with pytest.raises(hub.HubError, match="other/clip-tiny"):
        clip_files.load_clip("other/clip-tiny")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "clip-tiny").mkdir(parents=True)
    assert not hub.local_path("someone/clip-tiny").is_absolute()  # a path wins


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


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """Requests to the hub, where the repository has the files of the directory."""
    import huggingface_hub

    requests = []

    def snapshot(repo_id, **options):
        requests.append((repo_id, options))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return requests


@pytest.mark.parametrize("name", ["https://huggingface.co/a/b", "../a", "a/b/c", "a"])
def test_only_ids_reach_the_hub(downloads, name):
    assert not hub.is_there_or_id(name)
    hub.local_path(name)
    assert not downloads


def test_only_data_is_fetched_from_the_hub(downloads, tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert hub.local_path("some-one/clip_1.5@v1.0/x") == tmp_path
    [(repo_id, options)] = downloads
    assert repo_id == "some-one/clip_1.5" and options["revision"] == "v1.0/x"
    names = ("vocab.json", "model.safetensors", "pytorch_model.bin", "model.py")
    fetched = [
        any(fnmatch.fnmatch(name, pattern) for pattern in options["allow_patterns"])
        for name in names
    ]
    assert fetched == [True, True, False, False]
