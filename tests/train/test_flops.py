"""Operations of a step: XLA's count, and its corrections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from vl_ltr_jax.models import tpu_attention
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.train import flops

SIDE = 32
PRODUCT = 2 * SIDE**3


def ones(*shape):
    return jnp.ones(shape, jnp.float32)


def counted(function, *arguments):
    """Products by our count, and XLA's operations for one device."""
    traced = jax.jit(function).trace(*arguments)
    analysed = traced.lower().compile().cost_analysis()["flops"]
    return flops.products(traced.jaxpr), analysed


def twice(x):
    return x @ (x @ x)


def loop(x):
    return jax.lax.scan(lambda carry, _: (carry @ x, None), x, None, length=7)[0]


def branches(x):
    return jax.lax.cond(x[0, 0] > 0, lambda: x @ x @ x, lambda: x @ x)


def convolved(x):
    image = jnp.tile(x[None, :, :, None], (1, 1, 1, 3))
    kernel = ones(3, 3, 3, 8)
    return jax.lax.conv_general_dilated(
        image, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize(
    ("function", "once", "total"),
    [
        (twice, 2 * PRODUCT, 2 * PRODUCT),
        (jax.checkpoint(twice), 2 * PRODUCT, 2 * PRODUCT),
        (loop, PRODUCT, 7 * PRODUCT),
        (branches, 2 * PRODUCT, 2 * PRODUCT),
        (convolved, 2 * 30 * 30 * 8 * 27, 2 * 30 * 30 * 8 * 27),
    ],
)
def test_products_agree_with_xla_and_loops_count_each_pass(function, once, total):
    products, analysed = counted(function, ones(SIDE, SIDE))
    assert products == (once, total)
    # XLA adds the few other operations; its count of a loop is one pass.
    assert analysed == pytest.approx(once, rel=0.02)
    assert flops.of_step(analysed, 1, products) == pytest.approx(total, rel=0.02)


def test_a_partitioned_program_counts_on_all_devices():
    """XLA's analysis is per device; a shard_map's shapes are a device's own."""
    mesh = meshes.make_mesh()
    rows = meshes.shard_rows(mesh, np.ones((8 * SIDE, SIDE), np.float32))
    local = jax.shard_map(
        twice,
        mesh=mesh,
        in_specs=jax.sharding.PartitionSpec(meshes.ROWS),
        out_specs=jax.sharding.PartitionSpec(meshes.ROWS),
    )
    automatic, analysed = counted(lambda x: x @ ones(SIDE, SIDE), rows)
    assert automatic.total == 8 * PRODUCT
    assert flops.of_step(analysed, 8, automatic) == pytest.approx(8 * PRODUCT, rel=0.02)
    manual, analysed = counted(local, rows)
    assert manual.total == 8 * 2 * PRODUCT
    assert flops.of_step(analysed, 8, manual) == pytest.approx(16 * PRODUCT, rel=0.02)


def test_library_calls_are_counted():
    hidden = flops.Products(100.0, 300.0)
    assert flops.of_step(-1.0, 8, hidden) == 300.0
    assert flops.of_step(2.0, 8, hidden) == 300.0
    assert flops.of_step(15.0, 8, hidden) == 320.0


def new_step(mesh, jit=jax.jit):
    def step(frozen, state, batch):
        state = state + jnp.sum(batch["x"] @ frozen["w"])
        return state, {"loss": state}

    weights = {"w": np.ones((SIDE, SIDE), np.float32)}
    frozen = meshes.place(weights, meshes.replicated(mesh))
    return flops.CountedStep(jit(step, donate_argnums=1), frozen, mesh, "bfloat16")


def batch(mesh, rows):
    return meshes.to_global(mesh, {"x": np.ones((rows, SIDE), np.float32)})


def test_a_step_is_traced_once_for_each_shape_of_a_batch():
    traces = []

    def jit(function, **options):
        def traced(*arguments):
            traces.append(1)
            return function(*arguments)

        return jax.jit(traced, **options)

    mesh = meshes.make_mesh()
    step = new_step(mesh, jit)
    state = meshes.place(np.float32(0), meshes.replicated(mesh))
    for count, rows in zip((1, 1, 2, 2), (8, 8, 16, 8), strict=True):
        state, metrics = step(state, batch(mesh, rows))
        assert len(traces) == count
    assert float(metrics["loss"]) == (8 + 8 + 16 + 8) * SIDE * SIDE


def test_utilisation_is_logged_if_the_peak_is_known(monkeypatch):
    def rates(mesh):
        step = new_step(mesh)
        step(meshes.place(np.float32(0), meshes.replicated(mesh)), batch(mesh, 16))
        return step.rates(1e6)

    mesh = meshes.make_mesh()
    [(name, rate)] = rates(mesh).items()
    assert name == "throughput/model_teraflops_per_second"
    assert rate == pytest.approx(2 * 16 * SIDE * SIDE * 1e6 / 1e12, rel=0.1)
    # Eight devices that each do 1e12 operations a second in bfloat16.
    monkeypatch.setitem(flops._PEAKS, "cpu", (1e12, 5e11))
    share = rates(mesh)["throughput/model_flops_utilization"]
    assert share == pytest.approx(rate / 8)


def test_products_of_a_kernel_fill_up_its_units():
    """Breaks if programs of the grid count once, or a size is not filled up."""
    arrays = [jax.ShapeDtypeStruct((3, 5, 128), jnp.bfloat16)] * 3
    call = jax.make_jaxpr(lambda *x: tpu_attention.attend(*x, None, 2))
    # Two heads of two products, each 8 x 8 x 128 for 5 x 5 x 128 or 5 x 128 x 5.
    sizes = 2 * 8 * 8 * 128
    assert flops.kernel_products(call(*arrays), 8) == 3 * 2 * 2 * sizes
    assert flops.kernel_products(jax.make_jaxpr(jnp.dot)(1.0, 1.0), 8) == 0


def test_a_kernel_counts_in_each_pass_of_a_loop():
    """Breaks if its body counts for all programs of its grid, or for all chunks."""
    arrays = [jax.ShapeDtypeStruct((4, 5, 128), jnp.bfloat16)] * 3

    def chunks(*arrays):
        step = lambda _, rows: (None, tpu_attention.attend(*rows, None, 2))  # noqa: E731
        rows = [array.reshape(2, 2, 5, 128) for array in arrays]
        return jax.lax.scan(step, None, rows)[1]

    counted = flops.products(jax.make_jaxpr(chunks)(*arrays))
    model = 4 * 4 * 5**2 * 128
    assert (counted.once, counted.total) == (model / 2, model)


@pytest.mark.parametrize("way, products", [("fwd", 2), ("bwd", 5)])
def test_cudnns_attention_counts_though_no_compiler_sees_it(way, products):
    """A primitive of that name stands for it: cuDNN's needs an NVIDIA library.

    Breaks if keys do not count by their own number.
    """
    primitive = core.Primitive(f"dot_product_attention_{way}_wrapper")
    primitive.def_abstract_eval(lambda queries, keys: queries)
    queries, keys = ones(2, 6, 3, 8), ones(2, 10, 3, 8)
    counted = flops.products(jax.make_jaxpr(primitive.bind)(queries, keys))
    assert counted.total == products * 2 * (2 * 3 * 8 * 6 * 10)
