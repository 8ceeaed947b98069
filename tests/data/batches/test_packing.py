import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vl_ltr_jax.data.batches.packing import Packer
from vl_ltr_jax.models.clip import PRESETS, Clip
from vl_ltr_jax.models.text import PackedTokens
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.train import chunks
from vl_ltr_jax.train.embedder import text_of

END = 99


def corpus(rng, sentences, longest):
    """Zero-padded sentences of 2 to `longest` tokens, a zero among their ids."""
    tokens = np.zeros((sentences, longest), np.int32)
    for row in tokens:
        length = rng.integers(2, longest + 1)
        row[: length - 1] = rng.integers(0, END, length - 1)
        row[length - 1] = END
    return tokens


def packer(tokens, batch_size, devices=1, num_chunks=1):
    def draw(step):
        return np.random.default_rng(step).integers(0, len(tokens), batch_size)

    return Packer(tokens, batch_size, devices, num_chunks, draw), draw


@pytest.fixture(scope="module")
def tower():
    config = PRESETS["ViT-tiny"]
    text = dataclasses.replace(
        config.text, width=16, layers=2, heads=2, vocab_size=100, context_length=12
    )
    model = Clip(dataclasses.replace(config, text=text))
    init = functools.partial(model.init, method="encode_text")
    variables = jax.jit(init)(jax.random.key(0), jnp.zeros((1, 12), jnp.int32))
    noise = jax.random.key(1)
    variables = jax.tree.map(
        lambda p: p + 0.3 * jax.random.normal(noise, p.shape), variables
    )
    return functools.partial(model.apply, method="encode_text"), variables


@pytest.mark.parametrize(("sentences", "longest"), [(1, 12), (16, 12), (3, 2)])
def test_packed_sentences_embed_as_alone(tower, sentences, longest):
    """Values and gradients of every parameter are equal.

    Breaks when a sentence sees its neighbour, positions do not restart, or padding is
    pooled.
    """
    apply, variables = tower
    rng = np.random.default_rng(sentences)
    tokens = corpus(rng, 40, longest)
    packing, draw = packer(tokens, sentences)
    packed = text_of(jax.tree.map(jnp.asarray, packing.pack(3)))
    assert isinstance(packed, PackedTokens)
    weights = rng.normal(size=(sentences, 128)).astype(np.float32)

    def loss(variables, text):
        embedded = apply(variables, text)
        return jnp.sum(weights * embedded), embedded

    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, actual), gradients = run(variables, packed)
    (_, expected), references = run(variables, jnp.asarray(tokens[draw(3)]))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * scale)
    references = dict(jax.tree.leaves_with_path(references))
    for path, gradient in jax.tree.leaves_with_path(gradients):
        if "k_proj" in str(path) and "bias" in str(path):
            continue  # 0 up to rounding: a softmax drops the common part of all keys
        reference = references[path]
        scale = np.abs(reference).max()
        np.testing.assert_allclose(gradient, reference, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("num_chunks", [1, 2])
def test_each_device_and_chunk_has_the_sentences_of_its_images(tower, num_chunks):
    """Breaks when groups follow chunks before devices, or rows before chunks."""
    apply, variables = tower
    tokens = corpus(np.random.default_rng(0), 40, 12)
    packing, draw = packer(tokens, 32, 8, num_chunks)
    mesh = meshes.make_mesh(4, 2)
    batch = meshes.to_global(mesh, packing.pack(0))
    embedded = jax.jit(
        lambda v, b: chunks.embed(
            lambda v, chunk: apply(v, text_of(chunk)), v, b, num_chunks, mesh
        )
    )
    hlo = embedded.lower(variables, batch).compile().as_text()
    for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert f" {name}(" not in hlo  # text does not cross devices
    actual = embedded(variables, batch)
    expected = apply(variables, jnp.asarray(tokens[draw(0)]))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_processes_share_out_the_groups_in_one_shape():
    tokens = corpus(np.random.default_rng(0), 40, 12)
    packing, _ = packer(tokens, 32, 4)
    with pytest.raises(ValueError, match="32 .* 1 .* 3"):
        packer(tokens, 32, 3)
    parts = [packing.pack(5, process, 2) for process in range(2)]
    for name, array in packing.pack(5).items():
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(joined, array)


def test_no_shape_comes_late_and_a_resumed_run_has_those_of_its_steps():
    """Breaks when the second shape waits for a step that needs it.

    Or when the first steps of a start, not of the run, have it: other bits.
    """
    rng = np.random.default_rng(0)
    tokens = corpus(rng, 500, 24)
    packing, draw = packer(tokens, 64)
    shapes = [packing.pack(step)["tokens"].shape for step in range(400)]
    early = set(shapes[:20])
    assert len(early) == 2
    assert set(shapes) == early
    assert shapes[:20].count(max(early)) == 1, "it is an exception"
    lengths = (tokens == END).argmax(axis=1) + 1
    assert lengths[draw(0)].sum() > 0.8 * np.prod(min(early)), "padding is short"
    again, _ = packer(tokens, 64)
    assert [again.pack(step)["tokens"].shape for step in (15, 16)] == shapes[15:17]


def test_a_batch_longer_than_all_tried_gets_the_next_shape():
    """Breaks when the rows of the first steps are the only size."""
    tokens = np.zeros((2, 12), np.int32)
    tokens[0, 1], tokens[1, 11] = END, END
    packing = Packer(tokens, 12, 1, 1, lambda step: np.full(12, int(step == 50)))
    assert packing.pack(0)["tokens"].shape == (1, 2, 12)
    assert packing.pack(50)["tokens"].shape == (1, 12, 12)
