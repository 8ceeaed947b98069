"""Forms of a residual block, by the estimates of a TPU's compiler.

    python -m vl_ltr_jax.benchmarks.blocks --topology=v5e:2x2

Two blocks, forward and backward in bfloat16, are compiled for one device in the form of
CPUs, in the plain form and with kernels. No TPU is needed.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vl_ltr_jax.benchmarks import paired
from vl_ltr_jax.commands import exits
from vl_ltr_jax.models.attention import Target, target_of
from vl_ltr_jax.models.layers import ResidualBlock
from vl_ltr_jax.preflight import figures, topology
from vl_ltr_jax.preflight.programs import Program
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.train import flops

NUM_BLOCKS = 2


def program(
    mesh: jax.sharding.Mesh, target: Target, sizes: tuple[int, int, int, int]
) -> Program:
    """Returns the gradient of two blocks as a program for the devices of a mesh.

    Args:
      mesh: of one device.
      target: decides the form.
      sizes: batch, tokens, width and heads.
    """
    batch, tokens, width, heads = sizes
    block, plain = (
        ResidualBlock(heads, 4 * width, "quick_gelu", 0.02, jnp.bfloat16, each)
        for each in (target, Target("cpu"))
    )
    rows = meshes.described_rows(mesh, (batch, tokens, width), jnp.bfloat16)
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(plain.init, key, rows)

    def total(variables: list[Any], stream: Any) -> jax.Array:
        for own in variables:
            stream = block.apply(own, stream)
        return jnp.sum(jnp.square(stream.astype(jnp.float32)))

    with meshes.describing():
        variables = meshes.compute(
            lambda: (
                [jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)] * NUM_BLOCKS
            ),
            shardings=meshes.replicated(mesh),
        )
    step = jax.jit(jax.grad(total, argnums=(0, 1)))
    return Program("two blocks", lambda: flops.compile(step, 1, variables, rows))


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a row for each form."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:2x2")
    for name, size in (("batch", 128), ("tokens", 197), ("width", 768), ("heads", 12)):
        parser.add_argument(f"--{name}", type=paired.count, default=size)
    options = parser.parse_args(argv)
    devices = topology.read(options.topology)
    mesh = meshes.make_mesh(devices=devices.devices[:1])
    single = devices._replace(devices=devices.devices[:1])
    sizes = (options.batch, options.tokens, options.width, options.heads)
    print("| form | estimated ms | of peak | GB moved | MiB temporary |")
    print("|---|---|---|---|---|")
    for form, target in (
        ("rows flattened, as on CPUs", Target("cpu")),
        ("plain", Target("gpu")),
        ("with kernels", target_of(mesh)),
    ):
        measured = figures.measure(program(mesh, target, sizes), single)
        print(f"| {form} | {_cells(measured)} |")


def _cells(measured: figures.Figures) -> str:
    if measured.error or measured.temporary_bytes is None:
        return f"{measured.error} | | |"
    cells = (
        f"{1e3 * (measured.estimated_seconds or 0):.1f}",
        f"{measured.utilisation or 0:.0%}",
        f"{(measured.bytes_accessed or 0) / 1e9:.1f}",
        f"{measured.temporary_bytes / 2**20:,.0f}",
    )
    return " | ".join(cells)


if __name__ == "__main__":
    with exits.refusing():
        main()
