"""A compiled program that a kill has torn is no burden to later starts."""

import os
from pathlib import Path

import jax
import pytest
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from vl_ltr_jax.runtime import compilation_cache as programs


@pytest.mark.usefixtures("jax_cache")
@pytest.mark.parametrize("left", [0, 100])
def test_a_torn_program_goes_and_whole_ones_stay(tmp_path, left):
    """Breaks if whole ones go as well, or torn ones stay: JAX then warns, here an
    error, and never writes them again."""
    jax.config.update("jax_compilation_cache_dir", os.fspath(tmp_path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()

    def torn_program(x):
        return x + left

    def compile_both():
        jax.clear_caches()
        assert float(jax.jit(lambda x: x * 2)(3.0)) == 6
        assert float(jax.jit(torn_program)(1.0)) == 1 + left

    compile_both()
    programs.clear_torn(tmp_path)
    all_of_them = set(tmp_path.glob("*-cache"))
    [torn] = tmp_path.glob("jit_torn_program-*-cache")
    size = torn.stat().st_size
    os.truncate(torn, left)
    programs.clear_torn(tmp_path)
    assert set(tmp_path.glob("*-cache")) == all_of_them - {torn} != set()
    compile_both()
    assert torn.stat().st_size > size / 2


@pytest.mark.usefixtures("jax_cache")
@pytest.mark.parametrize(
    "write",
    [
        lambda directory: programs.write_to("workdir", directory),
        lambda directory: programs.write_beside(directory, Path(directory)),
    ],
    ids=["run", "model"],
)
def test_torn_programs_beside_a_run_or_a_model_go(tmp_path, write):
    torn = tmp_path / "compiled" / "torn-cache"
    torn.parent.mkdir()
    torn.touch()
    write(epath.Path(tmp_path))
    assert not torn.exists()


def test_what_is_no_directory_of_ours_is_left_alone(tmp_path):
    other = tmp_path / "a-cache"
    other.write_bytes(b"of another compressor")
    programs.clear_torn(tmp_path)
    programs.clear_torn(tmp_path / "absent")
    programs.clear_torn("gs://bucket/compiled")
    assert other.exists()
