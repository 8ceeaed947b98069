"""Both towers end to end: against the authors' code, and the module's own promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vl_ltr_jax.benchmarks.openai_clip import openai_modules
from vl_ltr_jax.method.losses import (
    classwise_contrastive,
    contrastive_logits,
    distillation,
)
from vl_ltr_jax.models.attention import Target
from vl_ltr_jax.models.clip import (
    PRESETS,
    Clip,
    ClipConfig,
    SizeError,
    TextConfig,
    VisionConfig,
    variable_shapes,
)
from vl_ltr_jax.models.port.names import (
    OPENAI,
    check_match,
    tensor_shapes,
    to_tensors,
)
from worlds.clip_oracle import from_openai, relative_error, tiny_clip

KINDS = pytest.mark.parametrize("kind", ["vit", "resnet"])


@KINDS
@pytest.mark.parametrize(
    "mode, platform", [("eval", "cpu"), ("train", "cpu"), ("train", "tpu")]
)
def test_authors_forward_and_backward(kind, mode, platform):
    """Features, logits, losses, every gradient's norm, some gradients, statistics.

    Broken by GELU for QuickGELU, LayerNorm's epsilon 1e-6, pooling at the last token, a
    missing 1/sqrt(d); for the ResNet also by pooling after the strided convolution, by
    a biased running variance, by momentum 0.9.
    """
    tiny = tiny_clip(kind)
    golden = tiny.arrays
    variables = from_openai(tiny.state, tiny.config)
    images, tokens = tiny.batch()

    @jax.jit
    def run(params):
        model = Clip(tiny.config, target=Target(platform))
        (image_emb, text_emb), updates = model.apply(
            {**variables, "params": params},
            images,
            tokens,
            train=mode == "train",
            mutable=["batch_stats"],
        )
        logits = contrastive_logits(image_emb, text_emb, params["logit_scale"])
        base, _ = classwise_contrastive(logits, jnp.asarray(golden["labels"]))
        teacher = jnp.asarray(golden["teacher_logits_per_image"])
        distill, _ = distillation(logits, teacher)
        outputs = dict(
            image_features=image_emb,
            text_features=text_emb,
            logits_per_image=logits,
            distill_loss=distill,
        )
        return (base + distill) / 2, (outputs, updates)

    (loss, (outputs, updates)), grads = jax.value_and_grad(run, has_aux=True)(
        variables["params"]
    )
    assert loss == pytest.approx(golden[f"{mode}/loss"], rel=1e-5)
    for name, value in outputs.items():
        assert relative_error(value, golden[f"{mode}/{name}"]) < 1e-5, name

    ours = to_tensors({"params": grads}, OPENAI)
    assert sorted(ours) == tiny.grad_norm_order
    norms = np.array([np.linalg.norm(ours[name]) for name in tiny.grad_norm_order])
    expected = golden[f"{mode}/grad_norms"]
    np.testing.assert_allclose(norms, expected, rtol=1e-4, atol=1e-6)
    prefix = f"{mode}/grad/"
    names = [key.removeprefix(prefix) for key in golden if key.startswith(prefix)]
    assert len(names) > 10
    for name in names:
        assert relative_error(ours[name], golden[prefix + name]) < 1e-4, name

    if kind == "resnet" and mode == "train":
        after = to_tensors(updates, OPENAI)
        for name, value in after.items():
            expected = golden[f"train/stats_after/{name}"]
            assert relative_error(value, expected) < 1e-5, name
        assert len(after) == 44
    else:
        before = {k: v for k, v in variables.items() if k == "batch_stats"}
        jax.tree.map(np.testing.assert_array_equal, updates, before)


@pytest.mark.parametrize(
    "name", [name for name in PRESETS if name not in ("ViT-H/14", "ViT-bigG/14")]
)
def test_presets_have_the_variables_of_openais_module(name):
    """Names and shapes both ways. Broken by any size of a preset."""
    shapes = variable_shapes(PRESETS[name])
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    with torch.device("meta"):
        theirs = openai_modules(PRESETS[name]).state_dict()
    actual = {key: tuple(tensor.shape) for key, tensor in theirs.items()}
    check_match(tensor_shapes(shapes, OPENAI), actual, name)


def test_initialisation_is_openais():
    vision, text = VisionConfig("vit", 16, 128, 1, 2, 8), TextConfig(128, 2, 2, 77, 500)
    init = jax.jit(Clip(ClipConfig(vision, text, 64)).init)
    images, tokens = jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 4), jnp.int32)
    params = init(jax.random.key(0), images, tokens)["params"]
    assert params["logit_scale"] == pytest.approx(np.log(1 / 0.07))
    tower, block = params["text"], params["text"]["resblocks_1"]
    for array, std in (
        (tower["token_embedding"]["embedding"], 0.02),
        (tower["positional_embedding"], 0.01),
        (tower["text_projection"]["kernel"], 128**-0.5),
        (block["attn"]["k_proj"]["kernel"], 128**-0.5),
        (block["attn"]["out_proj"]["kernel"], (2 * 2 * 128) ** -0.5),
        (block["mlp"]["c_fc"]["kernel"], (2 * 128) ** -0.5),
        (block["mlp"]["c_proj"]["kernel"], (2 * 2 * 128) ** -0.5),
        (params["visual"]["proj"]["kernel"], 128**-0.5),
        (params["visual"]["resblocks_0"]["mlp"]["c_proj"]["kernel"], 256**-0.5),
    ):
        assert np.std(array) == pytest.approx(std, rel=0.05)


@KINDS
def test_bfloat16_computes_near_float32_with_float32_parameters(kind):
    tiny = tiny_clip(kind)
    variables = from_openai(tiny.state, tiny.config)
    batch = tiny.batch()
    exact = jax.jit(Clip(tiny.config).apply)(variables, *batch)
    coarse = jax.jit(Clip(tiny.config, jnp.bfloat16, target=Target("tpu")).apply)(
        variables, *batch
    )
    for ours, theirs in zip(coarse, exact, strict=True):
        assert ours.dtype == jnp.bfloat16
        assert relative_error(ours.astype(jnp.float32), theirs) < 0.05
    shapes = jax.eval_shape(
        Clip(tiny.config, dtype=jnp.bfloat16).init, jax.random.key(0), *batch
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


@KINDS
def test_remat_changes_nothing_but_memory(kind):
    """Same tree, values, gradients and statistics."""
    tiny = tiny_clip(kind)
    variables = from_openai(tiny.state, tiny.config)

    def run(params, remat):
        (image_emb, text_emb), updates = Clip(tiny.config, remat=remat).apply(
            {**variables, "params": params},
            *tiny.batch(),
            train=True,
            mutable=["batch_stats"],
        )
        return jnp.mean(image_emb**2) + jnp.mean(text_emb**2), updates

    gradient = jax.jit(jax.grad(run, has_aux=True), static_argnums=1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        *(gradient(variables["params"], remat) for remat in ("none", "full")),
    )


@KINDS
def test_remat_policies_compute_again_what_their_names_leave_out(kind):
    """Breaks if a name stands for another policy, or is not passed on: 'dots' keeps
    every product, 'dots_no_batch' not those of attention, 'full' none."""
    tiny = tiny_clip(kind)
    variables = jax.eval_shape(lambda: from_openai(tiny.state, tiny.config))

    images, _ = tiny.batch()

    def products(remat):
        def loss(variables):
            model = Clip(tiny.config, remat=remat)
            return jnp.sum(model.apply(variables, images, method="encode_image"))

        return str(jax.make_jaxpr(jax.grad(loss))(variables)).count("dot_general[")

    unchanged, dots, no_batch, full = map(
        products, ("none", "dots", "dots_no_batch", "full")
    )
    assert unchanged == dots <= no_batch < full
    assert (dots < no_batch) == (kind == "vit")  # a ResNet has no attention in blocks


def test_wrong_batches_are_refused():
    config = PRESETS["ViT-tiny"]
    variables = jax.tree.map(np.zeros_like, variable_shapes(config))
    tokens = jnp.zeros((1, 77), jnp.int32)
    with pytest.raises(SizeError, match="32 x 40"):
        Clip(config).apply(variables, jnp.zeros((1, 32, 40, 3)), tokens)
    with pytest.raises(SizeError, match="78"):
        Clip(config).apply(
            variables, jnp.zeros((1, 78), jnp.int32), method="encode_text"
        )


@pytest.mark.parametrize(
    ("kind", "sizes", "key"),
    [
        (VisionConfig, ("vit", 224, 768, 12, 12), "patch_size"),
        (VisionConfig, ("vit", 224, 768, (1, 2), 12, 16), "layers"),
        (VisionConfig, ("resnet", 224, 64, 4, 32), "layers"),
        (VisionConfig, ("vit", 225, 768, 12, 12, 16), "image_size"),
        (TextConfig, (512, 12, 7), "heads"),
    ],
)
def test_impossible_sizes_are_refused(kind, sizes, key):
    with pytest.raises(SizeError, match=key):
        kind(*sizes)
