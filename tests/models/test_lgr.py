"""The language-guided head: the authors' numbers, the paper's formula, and shapes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from vl_ltr_jax.method import losses
from vl_ltr_jax.models import lgr
from vl_ltr_jax.models.port.names import VL_LTR, from_tensors, to_tensors
from vl_ltr_jax.runtime import mesh as meshes
from worlds import golden as goldens
from worlds.golden import close


def value_and_gradients(function):
    return jax.jit(jax.value_and_grad(function, argnums=(0, 1, 2), has_aux=True))


def load(case):
    golden = goldens.load(f"lgr/{case}.npz")
    tensors = {
        name.replace("params/two_branch/", "text_block."): golden[name]
        for name in golden
        if name.startswith("params/two_branch/")
    }
    classes, _, width = golden["text_embeddings"].shape
    shapes = {"params": {"head": lgr.head_shapes(classes, width)}}
    params = from_tensors(tensors, shapes, VL_LTR, case)["params"]["head"]
    arrays = {
        name: jnp.asarray(golden[name])
        for name in ("image_features", "text_embeddings", "padding_mask")
    }
    return golden, params, arrays


def make_head(golden, **options):
    num_classes, _, embed_dim = golden["text_embeddings"].shape
    scale = float(golden["logit_scale"])
    return lgr.LanguageGuidedHead(num_classes, embed_dim, scale, **options)


def loss_of(head, params, image_features, anchors, padding, labels):
    logits = head.apply({"params": params}, image_features, anchors, padding)
    targets = losses.one_hot_smooth(labels, head.num_classes, 0.0)
    terms = [losses.cross_entropy(branch, targets) for branch in logits]
    return terms[0] + terms[1], (logits, terms)


@pytest.mark.parametrize("detach_norm", [False, True])
@pytest.mark.parametrize("case", ["basic", "short"])
def test_matches_vl_ltr(case, detach_norm):
    """Logits, losses, and gradients of parameters, images and anchors.

    Breaks when Wk is not transposed in the fold, the key's scale is left out, values
    are normalised, attention is not divided by sqrt(D), padding gets weight, or
    (gradients only) the norm is detached in the other variant.
    """
    golden, params, arrays = load(case)
    head = make_head(golden, detach_norm=detach_norm)
    variant = "two_branch_v_detach" if detach_norm else "two_branch"
    labels = jnp.asarray(golden["labels"], jnp.int32)
    (loss, (logits, terms)), gradients = value_and_gradients(
        lambda p, i, t: loss_of(head, p, i, t, arrays["padding_mask"], labels)
    )(params, arrays["image_features"], arrays["text_embeddings"])
    close(loss, golden[f"{variant}/loss"], 1e-5)
    soft_targets = jnp.asarray(golden["soft_targets"])
    for i in (0, 1):
        close(logits[i], golden[f"{variant}/logits{i}"], 1e-5)
        close(terms[i], golden[f"{variant}/ce{i}"], 1e-5)
        soft = losses.cross_entropy(logits[i], soft_targets)
        close(soft, golden[f"{variant}/soft_ce{i}"], 1e-5)
    smooth = losses.one_hot_smooth(labels, head.num_classes, 0.1)
    smooth = losses.cross_entropy(logits[1], smooth)
    close(smooth, golden[f"{variant}/smooth_ce1"], 1e-5)

    close(gradients[1], golden[f"{variant}/grad/image_features"], 1e-4)
    close(gradients[2], golden[f"{variant}/grad/text_embeddings"], 1e-4)
    tensors = to_tensors({"params": {"head": gradients[0]}}, VL_LTR)
    assert len(tensors) == 9
    for name, gradient in tensors.items():
        name = name.removeprefix("text_block.")
        close(gradient, golden[f"{variant}/grad/{name}"], 1e-4)


def plain_head(params, image_features, anchors, padding, scale, detach_norm):
    """The language branch as the paper writes it, with K and G built."""

    def normalize(x, weight, bias):
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
        shape = (1,) * (x.ndim - 1) + (-1,)
        return x * weight.reshape(shape) + bias.reshape(shape)

    norm1q = params["norm1q"]
    query = normalize(image_features, norm1q["scale"], norm1q["bias"]) @ params["wq"]
    # A bias of the keys' LayerNorm must not matter.
    bias = jnp.linspace(-1.0, 1.0, anchors.shape[-1])
    keys = normalize(anchors, params["norm1k"], bias) @ params["wk"]
    scores = jnp.einsum("bd,cmd->bcm", query, keys) / np.sqrt(anchors.shape[-1])
    scores = jnp.where(padding[None], -jnp.inf, scores)
    attended = jnp.einsum("bcm,cmd->bcd", jax.nn.softmax(scores), anchors)
    norm = jnp.linalg.norm(attended, axis=-1)
    if detach_norm:
        norm = jax.lax.stop_gradient(norm)
    unit = image_features / jnp.linalg.norm(image_features, axis=-1, keepdims=True)
    return jnp.exp(scale) * jnp.einsum("bd,bcd->bc", unit, attended) / norm


# Batch, classes, anchors, width, blocks, and whether the norm is a constant.
CASES = {
    "odd in blocks": (6, 5, 7, 16, 5, False),
    "one class": (3, 1, 4, 8, 1, False),
    "one anchor in blocks": (5, 6, 1, 8, 3, True),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_identities_equal_the_plain_head(case):
    """Breaks when the Gram matrix is not that of the anchors, the fold drops Wq or the
    mean of the query, or blocks come back in another order.
    """
    batch, classes, per_class, dim, blocks, detach_norm = case
    layout = lgr.ClassLayout(classes, blocks=blocks)
    head = lgr.LanguageGuidedHead(
        classes, dim, 3.0, detach_norm=detach_norm, layout=layout
    )
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    image_features = 4 * normal(batch, dim)
    anchors = 3 * normal(classes, per_class, dim) + 1
    counts = jnp.asarray(rng.integers(1, per_class + 1, classes))
    padding = jnp.arange(per_class)[None] >= counts[:, None]
    params = jax.tree.map(
        lambda leaf: 0.3 * normal(*leaf.shape) + (leaf.shape == (dim,)),
        lgr.head_shapes(classes, dim),
    )
    weights = normal(batch, classes)

    def ours(params, image_features, anchors):
        variables = {"params": params}
        logits = head.apply(variables, image_features, anchors, padding)[1]
        return jnp.sum(weights * logits), logits

    def plain(params, image_features, anchors):
        logits = plain_head(params, image_features, anchors, padding, 3.0, detach_norm)
        return jnp.sum(weights * logits), logits

    arguments = (params, image_features, anchors)
    actual, expected = (value_and_gradients(f)(*arguments) for f in (ours, plain))
    close(actual[0][1], expected[0][1], 1e-5)
    del actual[1][0]["visual_fc"], expected[1][0]["visual_fc"]
    jax.tree.map(lambda a, b: close(a, b, 1e-4), actual[1], expected[1])
    constants = lgr.anchor_constants(anchors)
    logits = head.apply(
        {"params": params}, image_features, anchors, padding, constants
    )[1]
    close(logits, actual[0][1], 1e-6)


def test_blocks_of_sharded_classes_equal_the_unsharded_head():
    """Breaks when a block takes its classes from one shard and gives them to another.

    21 classes on 2 x 4 devices, padded until 4 shards and 3 blocks divide them.
    """
    mesh = meshes.make_mesh(2, 4)
    keys = jax.random.split(jax.random.key(1), 3)
    images = jax.random.normal(keys[0], (8, 16))
    anchors = jax.random.normal(keys[1], (21, 5, 16))
    padding = jnp.arange(5)[None] >= 1 + jnp.arange(21)[:, None] % 5
    unsharded = lgr.LanguageGuidedHead(21, 16, 3.0)
    params = jax.jit(unsharded.init)(keys[2], images, anchors, padding)["params"]
    layout = lgr.ClassLayout(24, shards=4, blocks=3)
    blocked = lgr.LanguageGuidedHead(21, 16, 3.0, layout=layout)
    split_anchors, present = (
        meshes.shard_rows(mesh, np.pad(a, [(0, 3)] + [(0, 0)] * (a.ndim - 1)), "model")
        for a in (np.asarray(anchors), ~np.asarray(padding))
    )
    split_images = meshes.shard_rows(mesh, np.asarray(images), "data")

    def loss(head, anchors, padding, params, images):
        logits = head.apply({"params": params}, images, anchors, padding)
        return sum(jnp.sum(jnp.sin(branch)) for branch in logits), logits

    def run(head, anchors, padding, images):
        step = functools.partial(loss, head, anchors, padding)
        return jax.jit(jax.value_and_grad(step, (0, 1), True))(params, images)

    (_, expected), expected_gradients = run(unsharded, anchors, padding, images)
    (_, actual), gradients = run(blocked, split_anchors, ~present, split_images)
    jax.tree.map(lambda a, b: close(a, b, 1e-5), actual, expected)
    jax.tree.map(lambda a, b: close(a, b, 1e-4), gradients, expected_gradients)


@pytest.mark.parametrize(
    ("sizes", "mesh_shape", "layout"),
    [
        ((365, 64, 1024), {"data": 1, "model": 1}, (365, 1, 1)),
        ((8142, 64, 128), {"data": 1, "model": 1}, (8142, 1, 2)),
        ((8142, 64, 1024), {"data": 2, "model": 4}, (8144, 4, 2)),
        ((3, 64, 2**40), {"data": 1, "model": 1}, (3, 1, 3)),
    ],
)
def test_blocks_follow_the_memory_of_a_device(sizes, mesh_shape, layout):
    fitted = lgr.ClassLayout.fit(*sizes, mesh_shape)
    assert (fitted.padded, fitted.shards, fitted.blocks) == layout


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def test_neither_attended_vectors_nor_keys_are_built():
    """Breaks when G [B C D] appears, forward or backward, or any product has the shape
    of the projected keys [C M D], while the anchors are frozen.
    """
    golden, params, arrays = load("basic")
    head = make_head(golden)
    labels = jnp.asarray(golden["labels"], jnp.int32)
    anchors, padding = arrays["text_embeddings"], arrays["padding_mask"]
    jaxpr = jax.make_jaxpr(
        jax.value_and_grad(
            lambda p, i: loss_of(head, p, i, anchors, padding, labels)[0], (0, 1)
        )
    )(params, arrays["image_features"])
    batch, (classes, per_class, dim) = len(labels), anchors.shape
    shapes = {True: set(), False: set()}
    for equation in equations(jaxpr.jaxpr):
        product = equation.primitive.name == "dot_general"
        shapes[product] |= {tuple(sorted(o.aval.shape)) for o in equation.outvars}
    assert tuple(sorted((batch, classes, per_class))) in shapes[True]
    assert tuple(sorted((batch, classes, dim))) not in shapes[True] | shapes[False]
    assert tuple(sorted((classes, per_class, dim))) not in shapes[True]


@pytest.mark.parametrize("detach_norm", [False, True])
def test_class_without_sentences_is_finite(detach_norm):
    """The authors get NaN; here its language logit is 0, the others are as theirs."""
    golden, params, arrays = load("zero_sentences")
    head = make_head(golden, detach_norm=detach_norm)
    labels = jnp.asarray(golden["labels"], jnp.int32)
    # Embeddings of padding must not matter.
    padding = arrays["padding_mask"]
    anchors = jnp.where(padding[..., None], 5.0, arrays["text_embeddings"])
    (_, (logits, terms)), gradients = value_and_gradients(
        lambda *a: loss_of(head, *a, padding, labels)
    )(params, arrays["image_features"], anchors)
    close(logits[0], golden["two_branch/logits0"], 1e-5)
    close(terms[0], golden["two_branch/ce0"], 1e-5)
    expected = golden["two_branch/logits1"]
    assert np.isnan(expected[:, 1]).all()
    close(logits[1], np.nan_to_num(expected, nan=0.0), 1e-5)
    for leaf in jax.tree.leaves(gradients):
        assert np.isfinite(leaf).all()
    assert not np.any(gradients[2][padding])


def test_projections_start_as_identity():
    head = lgr.LanguageGuidedHead(3, 8, 4.6)
    anchors, padding = jnp.ones((3, 2, 8)), jnp.zeros((3, 2), bool)
    params = head.init(jax.random.key(0), jnp.ones((1, 8)), anchors, padding)["params"]
    np.testing.assert_array_equal(params["wq"], np.eye(8))
    np.testing.assert_array_equal(params["wk"], np.eye(8))
    assert params["visual_fc"]["fc1"]["kernel"].shape == (8, 32)
    assert np.abs(params["visual_fc"]["fc1"]["kernel"]).max() <= 8**-0.5


def test_bfloat16_stays_near_float32():
    golden, params, arrays = load("basic")
    near = [
        make_head(golden, dtype=dtype).apply({"params": params}, *arrays.values())
        for dtype in (jnp.bfloat16, jnp.float32)
    ]
    for low, full in zip(*near, strict=True):
        assert low.dtype == jnp.float32
        close(low, full, 3e-2)


def test_wrong_shapes_are_refused():
    head = lgr.LanguageGuidedHead(3, 8, 4.6)
    arguments = jnp.ones((1, 8)), jnp.ones((4, 2, 8)), jnp.zeros((4, 2), bool)
    with pytest.raises(ValueError, match="num_classes=3"):
        head.init(jax.random.key(0), *arguments)
