"""Devices to compile for: those of a TPU slice or of a node with GPUs, described.

The compilers are libtpu and JAX's CUDA plugin; both work without a device. A card is
described by NVIDIA's data sheet, since no driver can be asked.
"""

import contextlib
import importlib.metadata
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

import jax
from jax.experimental import topologies

from vl_ltr_jax.logs.messages import nearest
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.train import memory

GIB = 2**30
EXAMPLES = "v5e:2x4, v5e:16x16, v4:2x2x2, v5p:2x2x2, v6e:2x4, h100:8, a100-40:8, local"


class TopologyError(UserError):
    """A topology that does not exist, or whose compiler is not installed."""


class Tpu(NamedTuple):
    """One JAX device of a TPU.

    Attributes:
      memory_bytes: that the compiler lets programs use.
      peak: published operations a second, in bfloat16.
      flops_per_cycle: of its matrix units, so that peak / flops_per_cycle is the clock.
      interconnect: bytes a second that it sends on all its links, as published.
    """

    memory_bytes: int
    peak: float
    flops_per_cycle: int
    interconnect: float


class Gpu(NamedTuple):
    """One card, for the compiler's cost model; rates are those of the data sheet."""

    kind: str
    capability: tuple[int, int]
    memory_bytes: int
    bandwidth: int  # bytes a second
    cores: int
    units: int  # of float32, in a core
    clock: float  # GHz
    shared_memory: int  # of a core
    block_memory: int  # most that a block may ask for
    threads: int  # of a core
    cache: int  # level 2


TPUS = {
    # Four units of 128 x 128 a core, 256 x 256 on v6e. A v4 device is one of two cores,
    # a v5p device both.
    "v4": Tpu(int(15.25 * GIB), 137.5e12, 2**17, 150e9),
    "v5e": Tpu(int(15.75 * GIB), 197e12, 2**17, 200e9),
    "v5p": Tpu(int(95.74 * GIB), 459e12, 2**18, 600e9),
    "v6e": Tpu(int(31.25 * GIB), 918e12, 2**19, 400e9),
}
_A100 = Gpu(
    kind="NVIDIA A100-SXM4-40GB",
    capability=(8, 0),
    memory_bytes=42_298_834_944,
    bandwidth=1_555_000_000_000,
    cores=108,
    units=64,
    clock=1.41,
    shared_memory=167_936,
    block_memory=166_912,
    threads=2048,
    cache=40 * 2**20,
)
GPUS = {
    "h100": Gpu(
        kind="NVIDIA H100 80GB HBM3",
        capability=(9, 0),
        memory_bytes=84_942_979_072,
        bandwidth=3_352_320_000_000,
        cores=132,
        units=128,
        clock=1.98,
        shared_memory=233_472,
        block_memory=232_448,
        threads=2048,
        cache=50 * 2**20,
    ),
    "a100-40": _A100,
    "a100-80": _A100._replace(
        kind="NVIDIA A100-SXM4-80GB",
        memory_bytes=84_987_740_160,
        bandwidth=2_039_000_000_000,
    ),
    "rtx4090": Gpu(
        kind="NVIDIA GeForce RTX 4090",
        capability=(8, 9),
        memory_bytes=25_393_692_672,
        bandwidth=1_008_000_000_000,
        cores=128,
        units=128,
        clock=2.52,
        shared_memory=102_400,
        block_memory=101_376,
        threads=1536,
        cache=72 * 2**20,
    ),
}
# JAX takes 75 % of a card's memory, unless one of these says otherwise.
_GPU_SHARES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
_CUDNN = "major: 9 minor: 8 patch: 0"


class Topology(NamedTuple):
    """Devices to compile for.

    Attributes:
      name: as the user wrote it.
      devices: described, or real ones.
      memory_bytes: of one device, that a run may use; 0 if unknown.
      tpu: None for other devices, whose compilers estimate no cycles.
    """

    name: str
    devices: list[jax.Device]
    memory_bytes: int
    tpu: Tpu | None = None


def read(name: str) -> Topology:
    """Returns the devices of a topology such as `v5e:2x4`, `h100:8` or `local`.

    Raises:
      TopologyError: there is no such topology, or no compiler for it.
    """
    if name == "local":
        devices = meshes.devices()
        return Topology(name, devices, memory.limit(devices[0]) or _host_share())
    _prepare()
    chip, _, shape = name.partition(":")
    if chip in TPUS:
        with _compiler(name, "libtpu", "aot-tpu"):
            devices = topologies.get_topology_desc(name, platform="tpu").devices
        tpu = TPUS[chip]
        return Topology(name, list(devices), tpu.memory_bytes, tpu)
    if chip in GPUS:
        if not re.fullmatch(r"[1-9]\d{0,3}", shape):
            raise TopologyError(
                f"--topology={name}: a number of cards expected, as in {chip}:8."
            )
        with _compiler(name, "jax-cuda13-plugin", "aot-cuda"):
            devices = topologies.get_topology_desc(
                chip,
                platform="cuda",
                topology=f"1x{shape}x1",
                target_config=_target(GPUS[chip]),
            ).devices
        values = [os.environ.get(name) for name in _GPU_SHARES]
        share = float(next(filter(None, values), 0.75))
        return Topology(name, list(devices), int(share * GPUS[chip].memory_bytes))
    near = nearest(chip, [*TPUS, *GPUS, "local"])
    raise TopologyError(f"--topology={name}: unknown{near} Examples: {EXAMPLES}.")


def _prepare() -> None:
    """Sets the environment of the compilers; no device is in use yet."""
    jax.config.update("jax_platforms", "cpu")
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # another process may compile too
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",  # any: a topology is named below
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",  # no driver
    }
    # Without a card nothing is tuned, and Triton's products need tuned tiles.
    tuning = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {tuning}".strip()


def _host_share() -> int:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return pages // jax.local_device_count()


@contextlib.contextmanager
def _compiler(name: str, package: str, extra: str) -> Iterator[None]:
    """Turns the errors of a compiler that is absent or refuses into one line."""
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise TopologyError(
            f"--topology={name}: its compiler is not installed. "
            f"Run pip install -e '.[{extra}]'."
        ) from None
    try:
        yield
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0].partition(": ")[2] or str(error)
        raise TopologyError(
            f"--topology={name}: {reason.rstrip('.')}. Examples: {EXAMPLES}."
        ) from error


def _target(card: Gpu) -> str:
    """Returns a card as the text of XLA's `GpuTargetConfigProto`."""
    major, minor = card.capability
    limits = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49152,
        "shared_memory_per_core": card.shared_memory,
        "threads_per_core_limit": card.threads,
        "core_count": card.cores,
        "fpus_per_core": card.units,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "memory_bandwidth": card.bandwidth,
        "l2_cache_size": card.cache,
        "clock_rate_ghz": card.clock,
        "device_memory_size": card.memory_bytes,
        "shared_memory_per_block_optin": card.block_memory,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
    }
    fields = " ".join(f"{key}: {value}" for key, value in limits.items())
    return (
        f"gpu_device_info {{ {fields} "
        f"cuda_compute_capability {{ major: {major} minor: {minor} }} }} "
        f'platform_name: "CUDA" dnn_version_info {{ {_CUDNN} }} '
        f'device_description_str: "{card.kind}"'
    )
