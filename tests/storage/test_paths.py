"""`~` is the home directory, and a run's paths mean the same from anywhere."""

import os
from pathlib import Path

import pytest
from etils import epath

from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config import settings
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.run.depends import artifact
from vl_ltr_jax.storage import paths
from vl_ltr_jax.storage.artifact import ArtifactError
from vl_ltr_jax.storage.workdir import path_of
from worlds import image_world


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return str(tmp_path)


def test_words_of_a_command_line_and_a_workdir(home):
    """Breaks if a directory called `~` is made in the current one."""
    typed = ["--workdir=~/runs", "~/a.jpg", "b~", "--x=b/~", "gs://b/~/x"]
    expected = [f"--workdir={home}/runs", f"{home}/a.jpg", *typed[2:]]
    assert paths.expand_arguments(typed) == expected
    assert path_of("~/runs/x") == epath.Path(home) / "runs" / "x"


@pytest.mark.parametrize("key", paths.KEYS)
def test_every_path_of_the_configuration(home, key, monkeypatch):
    monkeypatch.chdir(home)
    for name in "aw":  # an id of the hub, unless such a path exists
        (Path(home) / name).mkdir()
    for typed, expected in (("~/a", f"{home}/a"), ("", ""), ("./w", f"{home}/w")):
        config_dict = configs.default_config()
        config_dict.update_from_flattened_dict({key: typed})
        assert settings.flatten(configs.resolve(config_dict))[key] == expected
    for word in paths.KEYS[key]:
        assert paths.absolute(key, word) == word
    assert paths.absolute("init.clip", "openai/clip") == "openai/clip"  # of the hub


def test_a_run_goes_on_from_another_directory_and_with_moved_data(
    tmp_path, monkeypatch
):
    """Breaks if the spelling of `data.root` is compared, or its place is hashed."""
    root, workdir = image_world.write(tmp_path / "world"), epath.Path(tmp_path / "run")

    def stage(typed):
        config = configs.from_config_dict(image_world.configure(typed))
        return artifact(config, workdir, "pretrain", run_inputs.read(config))

    monkeypatch.chdir(tmp_path)
    stage("world").begin()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for typed in (os.path.join("..", "world"), root):
        stage(typed).check()
    other = image_world.write(tmp_path / "other")
    with pytest.raises(ArtifactError, match="data.root"):
        stage(other).check()
    Path(root).rename(tmp_path / "moved")
    stage(tmp_path / "moved").check()
