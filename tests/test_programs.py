"""Compiled programs on disk: whole ones stay, damaged ones go."""

import jax
import jax.numpy as jnp
import pytest

from vl_ltr_jax import programs


@pytest.fixture
def kept(tmp_path):
    """A directory with programs that JAX has written."""
    from jax.experimental.compilation_cache import compilation_cache

    options = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in options}
    compilation_cache.reset_cache()
    for name, value in options.items():
        jax.config.update(name, value)
    jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((3, 3)))
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    return tmp_path


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped"])
def test_a_damaged_program_is_named_and_deleted(kept, capsys, damage):
    """JAX would warn of it at each start, never saying which, and keep it."""
    programs.clear_damaged(kept)
    whole = sorted(kept.glob("*-cache"))
    assert whole and capsys.readouterr().err == ""
    content = bytearray(whole[0].read_bytes())
    content[len(content) // 2] ^= 0xFF
    left = {"cut": content[: len(content) // 2], "empty": b"", "flipped": content}
    whole[0].write_bytes(left[damage])
    (kept / "notes.txt").write_text("not a program")
    programs.clear_damaged(kept)
    assert sorted(kept.glob("*-cache")) == whole[1:]
    assert (kept / "notes.txt").exists()
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {whole[0]}: damaged (")
    assert said.count("\n") == 1


def test_a_directory_that_is_not_there_has_none(tmp_path, capsys):
    programs.clear_damaged(tmp_path / "absent")
    programs.clear_damaged("gs://bucket/compiled")
    assert capsys.readouterr().err == ""
