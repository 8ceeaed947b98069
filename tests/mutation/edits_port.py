"""Edits of what a CLIP's files say for `mutations.py`: what, where, before, after,
tests."""

SIZES = "vl_ltr_jax/models/port/sizes.py"
TESTS = "tests/models/port/test_open_clip.py::test_embeddings_are_open_clips"

CLIP_EDITS = (
    (
        "GELU replaced by its tanh form",
        "vl_ltr_jax/models/layers.py",
        "partial(jax.nn.gelu, approximate=False)",
        "partial(jax.nn.gelu, approximate=True)",
        TESTS,
    ),
    (
        "QuickGELU for every model of open_clip's",
        "vl_ltr_jax/models/port/open_clip.py",
        '"quick_gelu" if quick else "gelu"',
        '"quick_gelu" if quick in (True, False) else "gelu"',
        TESTS,
    ),
    (
        "image heads 64 wide whatever the file says",
        SIZES,
        "self.head_width or _HEAD_WIDTHS.get(width, _HEAD_WIDTH)",
        "_HEAD_WIDTH",
        TESTS,
    ),
    (
        "text heads 64 wide whatever the file says",
        SIZES,
        "details.text_heads or width // _HEAD_WIDTH",
        "width // 48",
        TESTS,
    ),
    (
        "MLPs of four widths in every model",
        SIZES,
        'return shapes.get(f"{prefix}.0.mlp.c_fc.weight", (0,))[0]',
        "return 0",
        TESTS,
    ),
    (
        "a run's pixels by OpenAI's numbers whatever the model's own are",
        "vl_ltr_jax/run/initial.py",
        'own.normalization if own else transforms.NORMALIZATIONS["clip"]',
        'transforms.NORMALIZATIONS["clip"]',
        "tests/run/test_initial.py::test_a_run_has_the_models_own_activation_and_pixels",
    ),
)
