"""Floating-point operations of a training step, and how much of the devices they use.

The count is that of XLA's analysis of the compiled step, mended where it is known to be
short: it visits the body of a loop once (chunks of a batch, streamed losses, blocks of
classes), and on GPUs it knows nothing of products that cuBLAS and cuDNN compute. Both
are made good by the products of the traced step. What the step computes twice counts
twice: activations under `model.remat` or accumulation, and what each device computes
for itself, such as the update of replicated parameters.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax.extend import core

# Of one device as JAX counts them, dense, in operations a second: bfloat16, and float32
# at XLA's default precision, which on TPUs rounds factors to bfloat16 and on NVIDIA's
# GPUs to TF32. TPUs: cloud.google.com/tpu/docs, pages of each version; a v2 or v3
# device is one of a chip's two cores, and so is one of a TPU7x. GPUs: NVIDIA's data
# sheets, halved where they give the rate with sparsity.
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
    """Operations a second that a device can do at most; None where it is not known.

    Args:
      device_kind: as `jax.Device.device_kind` has it.
      compute_dtype: `bfloat16` or `float32`, of products.
    """
    rates = _PEAKS[device_kind] if device_kind in _PEAKS else None
    return rates and rates[("bfloat16", "float32").index(compute_dtype)]


class Products(NamedTuple):
    """Operations of matrix products and convolutions, over all devices.

    Attributes:
      once: with the body of each loop visited once.
      whole: with all passes of loops whose length is fixed.
    """

    once: float
    whole: float


def products(program: core.ClosedJaxpr | core.Jaxpr) -> Products:
    """Counts the products of a traced program; of branches, those of the largest."""
    jaxpr = program.jaxpr if isinstance(program, core.ClosedJaxpr) else program
    once = whole = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name in _OPERATIONS:
            count = _OPERATIONS[name](equation)
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
        # Its shapes are a device's own. None here is over a part of the mesh.
        devices = params["mesh"].size if name == "shard_map" else 1
        once += devices * inner.once
        whole += devices * passes * inner.whole
    return Products(once, whole)


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


_OPERATIONS: dict[str, Callable[[Any], float]] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
}


def _programs(params: Mapping[str, Any]) -> Iterator[core.ClosedJaxpr | core.Jaxpr]:
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, core.ClosedJaxpr | core.Jaxpr):
                yield part


def of_step(analysed: float, num_devices: int, traced: Products) -> float:
    """Operations of one step over all devices.

    Args:
      analysed: of the compiled step, by XLA for one device; below 0 where unknown.
      num_devices: that run it.
      traced: its products.
    """
    seen = max(analysed, 0.0) * num_devices
    if seen < traced.once / 2:  # the rest is in calls of libraries
        return traced.whole
    return seen + traced.whole - traced.once


class CountedStep:
    """A jitted step that is compiled once for each form of a batch, and counted.

    A call runs the very program that was counted.
    """

    def __init__(
        self,
        jitted: Any,
        frozen: dict[str, Any],
        mesh: jax.sharding.Mesh,
        compute_dtype: str,
    ) -> None:
        """Compiles nothing yet.

        Args:
          jitted: `(frozen, state, batch) -> (state, metrics)`.
          frozen: its first argument, the same at each step.
          mesh: the devices that run it.
          compute_dtype: of its products.
        """
        self._jitted, self._frozen, self._num_devices = jitted, frozen, mesh.size
        kind = mesh.devices.flat[0].device_kind
        self._peak = peak(kind, compute_dtype)
        self._programs: dict[Any, tuple[Any, float]] = {}
        self._flops = 0.0

    def __call__(
        self, state: Any, batch: Mapping[str, jax.Array]
    ) -> tuple[Any, Mapping[str, jax.Array]]:
        """Runs the step."""
        form = tuple((name, batch[name].shape) for name in sorted(batch))
        if form not in self._programs:
            self._programs[form] = self._compile(state, batch)
        program, self._flops = self._programs[form]
        return program(self._frozen, state, batch)

    def rates(self, steps_per_second: float) -> dict[str, float]:
        """What to log of the last step's operations.

        Returns:
          `throughput/model_teraflops_per_second` over all devices, and
          `throughput/model_flops_utilization`, from 0 to 1, where the device's peak is
          known: there is none for a CPU.
        """
        per_second = self._flops * steps_per_second
        logged = {"throughput/model_teraflops_per_second": per_second / 1e12}
        if self._peak is not None:
            share = per_second / (self._peak * self._num_devices)
            logged["throughput/model_flops_utilization"] = share
        return logged

    def _compile(self, state: Any, batch: Mapping[str, jax.Array]) -> tuple[Any, float]:
        traced = self._jitted.trace(self._frozen, state, batch)
        compiled = traced.lower().compile()
        analysis = compiled.cost_analysis() or {"flops": -1.0}
        analysed = analysis["flops"] if "flops" in analysis else 0.0
        flops = of_step(analysed, self._num_devices, products(traced.jaxpr))
        return compiled, flops
