"""The compute dtype that `auto` stands for."""

import pytest
from etils import epath

from vl_ltr_jax.config import settings
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.run.depends import settled


def dtype(config, *arguments):
    return settled(config, *arguments).model.compute_dtype


@pytest.mark.parametrize(
    "platform, expected",
    [
        ("cpu", "float32"),
        ("tpu", "bfloat16"),
        ("gpu", "bfloat16"),
        ("cuda", "bfloat16"),
    ],
)
def test_the_platform_decides(platform, expected):
    assert dtype(Config(), None, platform) == expected


def test_a_value_of_the_user_stays(tmp_path):
    config = settings.changed(Config(), {"model.compute_dtype": "float32"})
    assert dtype(config, epath.Path(tmp_path), "tpu") == "float32"


def test_a_run_that_has_begun_keeps_its_dtype(tmp_path):
    """Breaks if a run of a CPU goes on in bfloat16 on a TPU."""
    workdir = epath.Path(tmp_path)
    begun = settled(Config(), workdir, "cpu")
    (workdir / "config.json").write_text(settings.to_json(begun))
    assert dtype(Config(), workdir, "tpu") == "float32"


@pytest.mark.parametrize("content", ["", "[]", '{"model": {"compute_dtype": "int8"}}'])
def test_a_damaged_configuration_is_no_record(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert dtype(Config(), epath.Path(tmp_path), "tpu") == "bfloat16"
