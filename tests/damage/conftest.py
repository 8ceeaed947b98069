"""Quick readers, and no warning of one test in another."""

import functools
import gc

import pytest

from vl_ltr_jax.data.text import token_cache
from vl_ltr_jax.models.clip import variable_shapes
from vl_ltr_jax.models.port import clip_files
from vl_ltr_jax.recognizer import validate


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Lays out the same models once, and caches few tokens as many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_files, "variable_shapes", functools.cache(variable_shapes))
        for name in ("variable_shapes", "head_shapes"):
            cached = functools.cache(getattr(validate, name))
            patch.setattr(validate, name, cached)
        patch.setattr(token_cache, "SMALLEST", 1)
        yield


@pytest.fixture(autouse=True)
def collected():
    """Lets Orbax warn now of arrays that it still reads, not in another test."""
    yield
    gc.collect()
