"""Losses over the mesh: equal to one device, with less work and traffic."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vl_ltr_jax.method import losses, pair_losses
from vl_ltr_jax.preflight.hlo import collectives
from vl_ltr_jax.runtime import mesh as meshes
from worlds.golden import LOSS_CASES, LOSS_FORMS, LOSSES, close

TWO_FORMS = pytest.mark.parametrize("form", ["rows", "streaming"])


def spread(mesh, *arrays):
    """Rows over every device."""
    return jax.device_put(arrays, meshes.row_sharding(mesh))


@pytest.fixture
def small_blocks(monkeypatch):
    """Streaming blocks of 16 texts over all devices."""
    monkeypatch.setattr(pair_losses, "STREAMING_COLUMNS", 16)


@TWO_FORMS
@pytest.mark.parametrize("case", [case["case"] for case in LOSS_CASES["cases"]])
def test_matches_vl_ltr_on_as_many_devices_as_images(case, form, small_blocks):
    """Values and gradients of the authors, under every setting of theirs.

    Breaks when a device's columns are another's, when a maximum is not shared before
    sums are, or when the gradient of a text is not summed over devices.
    """

    def get(name):
        return jnp.asarray(LOSSES[0][f"{case}/{name}"])

    labels = get("labels").astype(jnp.int32)
    mesh = meshes.make_mesh(devices=jax.devices()[: len(labels)])
    teacher = pair_losses.Embedded(
        *spread(mesh, get("t_img_feat"), get("t_txt_feat")), get("teacher_logit_scale")
    )

    def loss(image, text, logit_scale, setting):
        beta = setting["beta"]
        values, _ = pair_losses.pretraining_losses(
            pair_losses.Embedded(image, text, logit_scale),
            teacher if beta else None,
            labels,
            mesh,
            label_smoothing=setting["smoothing"],
            distillation=LOSS_FORMS[setting["distill_type"]] if beta else "full",
            temperature=setting["tau"],
            form=form,
        )
        total = (1 - beta) * values["contrastive"]
        return total + beta * values["distillation"] if beta else total

    @jax.jit
    def everything(image, text, logit_scale):
        return {
            setting["name"]: jax.value_and_grad(loss, argnums=(0, 1, 2))(
                image, text, logit_scale, setting
            )
            for setting in LOSS_CASES["settings"]
        }

    student = spread(mesh, get("img_feat"), get("txt_feat"))
    for name, (total, gradients) in everything(*student, get("logit_scale")).items():
        for golden in LOSSES:
            close(total, golden[f"{case}/{name}/total"])
            for leaf, gradient in zip(
                ("img_feat", "txt_feat", "logit_scale"), gradients, strict=True
            ):
                close(gradient, golden[f"{case}/{name}/grad_{leaf}"], 1e-4)


def world():
    rng = np.random.default_rng(7)
    embeddings = rng.standard_normal((4, 64, 32), np.float32)
    return *embeddings, rng.integers(0, 9, 64, np.int32)


def arguments(mesh):
    """The batch over all devices, with the logarithm of the scale."""
    image, text, *frozen_and_labels = spread(mesh, *world())
    return image, text, jnp.float32(3.0), *frozen_and_labels


def over(mesh, form, distillation="full", temperature=1.0):
    def loss(image, text, scale, frozen_image, frozen_text, labels):
        values, nearest = pair_losses.pretraining_losses(
            pair_losses.Embedded(image, text, scale),
            pair_losses.Embedded(frozen_image, frozen_text, jnp.float32(4.6)),
            labels,
            mesh,
            distillation=distillation,
            temperature=temperature,
            form=form,
        )
        return values["contrastive"] + 2 * values["distillation"], nearest

    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)


def plain(distillation="full", temperature=1.0):
    """The one-device loss, on whole arrays."""

    def loss(image, text, scale, frozen_image, frozen_text, labels):
        logits = losses.contrastive_logits(image, text, scale)
        teacher = losses.contrastive_logits(frozen_image, frozen_text, jnp.float32(4.6))
        contrastive, _ = losses.classwise_contrastive(logits, labels)
        distilled, _ = losses.distillation(
            logits, teacher, form=distillation, temperature=temperature
        )
        nearest = labels[jnp.argmax(logits, axis=1)]
        return contrastive + 2 * distilled, nearest

    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)


def compare(actual, expected):
    (total, nearest), gradients = actual
    (expected_total, expected_nearest), expected_gradients = expected
    np.testing.assert_allclose(total, expected_total, rtol=1e-6)
    np.testing.assert_array_equal(nearest, expected_nearest)
    for actual, reference in zip(gradients, expected_gradients, strict=True):
        close(actual, np.asarray(reference), 1e-5)


@functools.cache
def on_one_device(distillation="full", temperature=1.0):
    image, text, *frozen_and_labels = world()
    loss = jax.jit(plain(distillation, temperature))
    return loss(image, text, jnp.float32(3.0), *frozen_and_labels)


@TWO_FORMS
@pytest.mark.parametrize("shape", [(4, 2), (1, 8)])
def test_any_number_of_devices_gives_the_loss_of_one(shape, form, small_blocks):
    """Breaks if the second axis of the mesh repeats rows, or leaves columns out."""
    mesh = meshes.make_mesh(*shape)
    batch = arguments(mesh)
    actual = jax.jit(over(mesh, form))(*batch)
    assert actual[1][0].sharding.is_equivalent_to(batch[0].sharding, 2)
    compare(actual, on_one_device())


@TWO_FORMS
@pytest.mark.parametrize(
    ("distillation", "temperature"), [("diagonal", 1.0), ("kl", 1.0), ("kl", 3.0)]
)
def test_every_distillation_is_that_of_one_device(
    distillation, temperature, form, small_blocks
):
    mesh = meshes.make_mesh()
    actual = jax.jit(over(mesh, form, distillation, temperature))(*arguments(mesh))
    compare(actual, on_one_device(distillation, temperature))


def test_an_odd_share_streams_in_equal_blocks():
    """7 texts a device in blocks of 1, 12 in blocks of 4: never an uneven block."""
    assert pair_losses.num_blocks(7, 1024) == 7
    assert pair_losses.num_blocks(12, 256) == 3
    assert pair_losses.num_blocks(4096, 8) == 32


def test_the_form_is_chosen_by_size():
    def in_blocks(form, batch_size):
        embedding = jax.ShapeDtypeStruct((batch_size, 4), jnp.float32)
        scale = jax.ShapeDtypeStruct((), jnp.float32)
        labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
        arguments = (embedding, embedding, scale, embedding, embedding, labels)
        jaxpr = jax.make_jaxpr(over(meshes.make_mesh(), form))(*arguments)
        return f"f32[{batch_size // 8},{batch_size}]" not in str(jaxpr)

    assert not in_blocks("auto", 1024) and in_blocks("auto", 2**15)
    size = 4 * pair_losses.STREAMING_COLUMNS
    assert not in_blocks("rows", size) and in_blocks("streaming", size)


def compiled(step, batch_size, width=512):
    mesh = meshes.make_mesh()
    rows, copies = meshes.row_sharding(mesh), meshes.replicated(mesh)
    embedding = jax.ShapeDtypeStruct((batch_size, width), jnp.float32, sharding=rows)
    scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=copies)
    labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32, sharding=rows)
    arguments = (embedding, embedding, scale, embedding, embedding, labels)
    outputs = ((copies, rows), (rows, rows, copies))
    return jax.jit(step, out_shardings=outputs).lower(*arguments).compile()


def test_fewer_operations_and_less_traffic_than_the_automatic_form():
    """Counted in the compiled programs of 4096 pairs on 8 devices, width 512.

    Breaks if a block of logits is computed for rows and again for columns, if images
    are gathered too, or if gradients of texts are summed before they are scattered.
    """
    programs = [
        compiled(step, 4096) for step in (over(meshes.make_mesh(), "rows"), plain())
    ]
    flops = [program.cost_analysis()["flops"] for program in programs]
    assert flops[0] <= flops[1]
    ours, automatic = (collectives(program.as_text()) for program in programs)
    for measure in ("output_bytes", "wire_bytes"):
        totals = [
            sum(getattr(collective, measure) for collective in counted.values())
            for counted in (ours, automatic)
        ]
        assert totals[0] < totals[1], measure
    # Texts of student and teacher, in float32; everything else is vectors.
    texts, vectors = 2 * 4096 * 512 * 4, 16 * 4096 * 4
    assert ours.keys() == {"all-gather", "all-reduce", "reduce-scatter"}
    assert texts <= ours["all-gather"].output_bytes < texts + vectors
    assert ours["all-reduce"].output_bytes < vectors
    assert ours["reduce-scatter"].output_bytes < texts / 2 / 8 + vectors


def largest_array(text):
    """Elements of the largest array of a partitioned program."""
    shapes = re.findall(r"\w+\[([\d,]+)\]", text)
    return max(np.prod([int(n) for n in shape.split(",")]) for shape in shapes)


def test_the_streaming_form_needs_a_tenth_of_the_memory():
    """And no device holds more than its rows of logits, or, streaming, a block."""
    mesh = meshes.make_mesh()
    batch_size, width, share = 2**15, 512, 2**12
    rows, streaming = (
        compiled(over(mesh, form), batch_size, width) for form in ("rows", "streaming")
    )
    temporary = [p.memory_analysis().temp_size_in_bytes for p in (rows, streaming)]
    assert temporary[1] < temporary[0] / 10
    # Blocks stack two arrays of the logits' size at most where they are fused.
    assert largest_array(rows.as_text()) == share * batch_size
    block = share * pair_losses.STREAMING_COLUMNS
    assert largest_array(streaming.as_text()) <= max(block, share * width)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"form": "row"}, "row"),
        ({"distillation": "ful"}, "ful"),
        ({"contrastive_reduction": "sums"}, "sums"),
        ({}, "batch of 6"),
    ],
)
def test_wrong_options_are_refused(options, name):
    size = 8 if options else 6  # 8 devices do not divide 6 pairs
    clip = pair_losses.Embedded(jnp.eye(size), jnp.eye(size), jnp.float32(0))
    with pytest.raises(ValueError, match=name):
        pair_losses.pretraining_losses(
            clip, clip, jnp.arange(size), meshes.make_mesh(), **options
        )


@pytest.mark.parametrize("form", ["rows", "streaming"])
def test_the_value_is_the_same_without_a_gradient(form):
    """Breaks if a loss that nobody differentiates takes another way."""
    rng = np.random.default_rng(0)
    image, text = rng.standard_normal((2, 16, 8)).astype(np.float32)

    def total(image):
        clip = pair_losses.Embedded(image, jnp.asarray(text), jnp.float32(1))
        values, nearest = pair_losses.pretraining_losses(
            clip, clip, jnp.arange(16), meshes.make_mesh(), form=form
        )
        return values["contrastive"] + values["distillation"], nearest

    value, nearest = total(jnp.asarray(image))
    (expected, same), _ = jax.value_and_grad(total, has_aux=True)(jnp.asarray(image))
    assert value == pytest.approx(float(expected), rel=1e-6)
    np.testing.assert_array_equal(nearest, same)
