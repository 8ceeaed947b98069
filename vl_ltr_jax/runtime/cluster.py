"""Processes of a run, by flags and environment.

A plain start is one process and asks nothing of any network. Several are joined if the
three flags or variables say where they meet, or a cluster's variables count more than
one. With `--distributed` JAX asks the cluster.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from vl_ltr_jax.runtime import errors
from vl_ltr_jax.runtime.errors import UserError

VARIABLES = {
    "coordinator_address": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}
# Clusters whose variables JAX reads: number of processes by variable.
CLUSTERS: dict[str, Callable[[str], int]] = {
    "TPU_WORKER_HOSTNAMES": lambda names: len(names.split(",")),  # GKE
    "MEGASCALE_NUM_SLICES": int,  # several TPU slices
    "SLURM_STEP_NUM_TASKS": int,  # set by srun, not by sbatch
    "OMPI_COMM_WORLD_SIZE": int,
}


class ClusterError(UserError):
    """Flags or variables do not fit, or processes cannot be joined."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """Address and numbers for joining; JAX finds out those that are None."""

    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def processes(
    flags: Mapping[str, Any], environment: Mapping[str, str], distributed: bool | None
) -> Processes | None:
    """Decides how this process joins others.

    Args:
      flags: values of `VARIABLES`' keys, None without the flag.
      environment: variables of the operating system.
      distributed: True lets JAX ask the cluster, such as a TPU VM's metadata server;
        False is a single process; None goes by flags and environment.

    Returns:
      None for a single process.

    Raises:
      ClusterError: a flag or variable does not fit.
    """
    values = {name: flags[name] for name in VARIABLES if flags[name] is not None}
    named = {name: f"--{name}" for name in values}
    if distributed is False:
        if values:
            listed = ", ".join(named.values())
            raise ClusterError(f"--nodistributed contradicts {listed}. Drop one")
        return None
    for name, variable in VARIABLES.items():
        if name not in values and variable in environment:
            values[name], named[name] = environment[variable], variable
    absent = [f"--{n} or {v}" for n, v in VARIABLES.items() if n not in values]
    if values and absent and not distributed:
        listed = ", ".join(named.values())
        raise ClusterError(f"{listed} without {', '.join(absent)}. Set all three")
    if values:
        return _checked(values, named)
    if distributed or any(
        _number(name, environment[name], count) > 1
        for name, count in CLUSTERS.items()
        if name in environment
    ):
        return Processes()
    return None


def join(processes: Processes | None) -> None:
    """Joins the other processes, before anything asks for devices.

    Raises:
      ClusterError: they cannot be found or do not come.
    """
    if processes is None:
        return
    try:
        jax.distributed.initialize(*dataclasses.astuple(processes))
    except Exception as error:  # JAX, its clusters and gRPC raise many kinds
        reason = str(error).partition("\n")[0]
        raise errors.lack(error) or ClusterError(
            f"cannot join the processes of this run ({reason}). Name "
            "--coordinator_address=HOST:PORT, --num_processes and --process_id, or "
            "start one process with --nodistributed"
        ) from error


def _checked(values: Mapping[str, Any], named: Mapping[str, str]) -> Processes:
    address = values.get("coordinator_address")
    host, _, port = (address or "host:1").rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ClusterError(
            f"{named['coordinator_address']}={address!r} is not HOST:PORT, the machine "
            "of process 0 and a free port there, as in 10.0.0.2:8476"
        )
    count, index = (
        _number(named[name], values[name], int) if name in values else None
        for name in ("num_processes", "process_id")
    )
    if count is not None and count < 1:
        raise ClusterError(f"{named['num_processes']}={count}: at least 1 is needed")
    if index is not None and not 0 <= index < (count or index + 1):
        last = "" if count is None else f" to {count - 1}"
        raise ClusterError(
            f"{named['process_id']}={index}: processes count from 0{last}"
        )
    return Processes(address, count, index)


def _number(name: str, value: Any, count: Callable[[Any], int]) -> int:
    try:
        return count(value)
    except ValueError:
        raise ClusterError(
            f"{name}={value!r} is not a number of processes. Mend it, or start one "
            "process with --nodistributed"
        ) from None
