"""Floating-point operations of a training step, and the devices' utilisation.

The count is XLA's analysis of the compiled step, corrected in two places. XLA counts
the body of a loop once: chunks of a batch, streamed losses, blocks of classes. On GPUs
it does not see the products of cuBLAS and cuDNN. The products of the traced step
replace both. Repeated work counts twice: activations under `model.remat` or
accumulation, and the update of replicated parameters on each device.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax.extend import core

# Dense operations a second of one JAX device: bfloat16, and float32 at XLA's default
# precision, which rounds factors to bfloat16 on TPUs and to TF32 on NVIDIA's GPUs.
# TPUs: cloud.google.com/tpu/docs; a v2, v3 or TPU7x device is one of a chip's two
# cores. GPUs: NVIDIA's data sheets, where rates with sparsity are halved.
_PEAKS: dict[str, tuple[float, float]] = {
    "TPU v2": (23e12, 23e12),
    "TPU v3": (61.5e12, 61.5e12),
    "TPU v4": (275e12, 275e12),
    "TPU v5 lite": (197e12, 197e12),
    "TPU v5e": (197e12, 197e12),
    "TPU v5": (459e12, 459e12),
    "TPU v5p": (459e12, 459e12),
    "TPU v6 lite": (918e12, 918e12),
    "TPU v6e": (918e12, 918e12),
    "TPU7x": (1153.5e12, 1153.5e12),
    "NVIDIA A100-SXM4-40GB": (312e12, 156e12),
    "NVIDIA A100-SXM4-80GB": (312e12, 156e12),
    "NVIDIA A100-PCIE-40GB": (312e12, 156e12),
    "NVIDIA A100 80GB PCIe": (312e12, 156e12),
    "NVIDIA H100 80GB HBM3": (989.5e12, 494.7e12),
    "NVIDIA H100 PCIe": (756e12, 378e12),
    "NVIDIA H100 NVL": (835.5e12, 417.5e12),
    "NVIDIA H200": (989.5e12, 494.7e12),
    "NVIDIA GH200 480GB": (989.5e12, 494.7e12),
    "NVIDIA B200": (2250e12, 1125e12),
    "NVIDIA L4": (121e12, 60e12),
    "NVIDIA L40S": (362e12, 183e12),
}


def peak(device_kind: str, compute_dtype: str) -> float | None:
    """Returns the peak operations a second of a device; None if unknown."""
    rates = _PEAKS[device_kind] if device_kind in _PEAKS else None
    return rates and rates[("bfloat16", "float32").index(compute_dtype)]


class Products(NamedTuple):
    """Operations of matrix products and convolutions, over all devices.

    Attributes:
      once: each loop's body counted once.
      total: each pass of a loop of fixed length counted.
    """

    once: float
    total: float


def products(program: core.ClosedJaxpr | core.Jaxpr) -> Products:
    """Counts the products of a traced program; of branches, the largest counts."""
    jaxpr = program.jaxpr if isinstance(program, core.ClosedJaxpr) else program
    once = total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name in _OPERATIONS:
            count = _OPERATIONS[name](equation)
            inner = Products(count, count)
        elif name == "pallas_call":
            estimate = params["cost_estimate"]  # as XLA counts it
            count = float(estimate.flops) if estimate else 0.0
            inner = Products(count, count)
        else:
            parts = [products(part) for part in _programs(params)]
            join = max if name == "cond" else sum
            inner = Products(
                *(float(join([0.0, *counts])) for counts in zip(*parts, strict=True))
                if parts
                else (0.0, 0.0)
            )
        passes = params["length"] if name == "scan" else 1
        # A shard_map has a device's shapes; each here covers the whole mesh.
        devices = params["mesh"].size if name == "shard_map" else 1
        once += devices * inner.once
        total += devices * passes * inner.total
    return Products(once, total)


def _dot(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    depth = math.prod(shape[axis] for axis in contracted)
    return 2.0 * depth * math.prod(equation.outvars[0].aval.shape)


def _convolution(equation: Any) -> float:
    params, kernel = equation.params, equation.invars[1].aval.shape
    window = math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]
    # Between the pixels of a dilated image there are zeros only.
    window /= math.prod(params["lhs_dilation"])
    return 2.0 * window * math.prod(equation.outvars[0].aval.shape)


def _cudnn_attention(equation: Any) -> float:
    """Two products forward; with the logits again five backward."""
    queries, keys = (x.aval.shape for x in equation.invars[:2])  # [B, L, H, d]
    products = 2 if "_fwd_" in equation.primitive.name else 5
    return 2.0 * products * math.prod(queries) * keys[1]


_OPERATIONS: dict[str, Callable[[Any], float]] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    # Of jax.nn.dot_product_attention, in calls of cuDNN.
    "dot_product_attention_fwd_wrapper": _cudnn_attention,
    "dot_product_attention_bwd_wrapper": _cudnn_attention,
}


def _programs(params: Mapping[str, Any]) -> Iterator[core.ClosedJaxpr | core.Jaxpr]:
    for part in jax.tree.leaves(list(params.values())):
        if isinstance(part, core.ClosedJaxpr | core.Jaxpr):
            yield part


def of_step(analysed: float, num_devices: int, traced: Products) -> float:
    """Returns the operations of one step over all devices.

    `analysed` is XLA's count for one device, below 0 if unknown.
    """
    visible = max(analysed, 0.0) * num_devices
    if visible < traced.once / 2:  # the rest is in calls of libraries
        return traced.total
    return visible + traced.total - traced.once


def kernel_products(program: core.ClosedJaxpr | core.Jaxpr, unit: int) -> float:
    """Returns operations of the kernels of a device, which compilers do not estimate.

    Each size of a product is filled up to a multiple of `unit`, the side of a matrix
    unit.
    """
    jaxpr = program.jaxpr if isinstance(program, core.ClosedJaxpr) else program
    total = 0.0
    for equation in jaxpr.eqns:
        parts = list(_programs(equation.params))
        if equation.primitive.name == "pallas_call":
            programs = math.prod(equation.params["grid_mapping"].grid)
            total += programs * sum(_filled(part, unit) for part in parts)
        else:
            passes = equation.params.get("length", 1)
            passes = passes if equation.primitive.name == "scan" else 1
            total += passes * sum(kernel_products(part, unit) for part in parts)
    return total


def _filled(program: core.ClosedJaxpr | core.Jaxpr, unit: int) -> float:
    jaxpr = program.jaxpr if isinstance(program, core.ClosedJaxpr) else program
    total = 0.0
    equation: Any
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            factor, out = (x[0].aval for x in (equation.invars, equation.outvars))
            depth = [factor.shape[axis] for axis in contracted]
            sizes = [*depth, *out.shape]
            total += 2.0 * math.prod(-(-size // unit) * unit for size in sizes)
        total += sum(_filled(part, unit) for part in _programs(equation.params))
    return total


class Counted(NamedTuple):
    """A compiled program.

    Attributes:
      program: from JAX.
      flops: operations of all devices.
      traced: the same program before compilation.
    """

    program: Any
    flops: float
    traced: core.ClosedJaxpr


def compile(jitted: Any, num_devices: int, *args: Any) -> Counted:
    """Compiles a program for arrays, or shapes, and counts its operations."""
    traced = jitted.trace(*args)
    compiled = traced.lower().compile()
    analysis = compiled.cost_analysis() or {"flops": -1.0}
    analysed = analysis["flops"] if "flops" in analysis else 0.0
    flops = of_step(analysed, num_devices, products(traced.jaxpr))
    return Counted(compiled, flops, traced.jaxpr)


class CountedStep:
    """A jitted step, compiled and counted once for each shape of a batch."""

    def __init__(
        self,
        jitted: Any,
        frozen: Any,
        mesh: jax.sharding.Mesh,
        compute_dtype: str,
    ) -> None:
        """Binds `frozen` to a jitted `(frozen, state, batch) -> (state, metrics)`."""
        self._jitted, self._frozen, self._num_devices = jitted, frozen, mesh.size
        kind = mesh.devices.flat[0].device_kind
        self._peak = peak(kind, compute_dtype)
        self._programs: dict[Any, Counted] = {}
        self._flops = 0.0

    def __call__(
        self, state: Any, batch: Mapping[str, jax.Array]
    ) -> tuple[Any, Mapping[str, jax.Array]]:
        """Runs the step."""
        shapes = tuple((name, batch[name].shape) for name in sorted(batch))
        if shapes not in self._programs:
            self._programs[shapes] = self.compile(state, batch)
        counted = self._programs[shapes]
        self._flops = counted.flops
        return counted.program(self._frozen, state, batch)

    def rates(self, steps_per_second: float) -> dict[str, float]:
        """Returns metrics of the last step's operations.

        `throughput/model_teraflops_per_second` is over all devices.
        `throughput/model_flops_utilization`, from 0 to 1, needs a device's known peak.
        """
        per_second = self._flops * steps_per_second
        logged = {"throughput/model_teraflops_per_second": per_second / 1e12}
        if self._peak is not None:
            share = per_second / (self._peak * self._num_devices)
            logged["throughput/model_flops_utilization"] = share
        return logged

    def compile(self, state: Any, batch: Mapping[str, Any]) -> Counted:
        """Compiles the step for arrays, or shapes."""
        return compile(self._jitted, self._num_devices, self._frozen, state, batch)
