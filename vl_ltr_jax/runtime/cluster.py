"""Which processes make up the run: from flags, from the environment, or only this one.

A plain start is one process and asks nothing of any network. Several are joined when
the three flags or variables say where they meet, when a cluster's variables speak of
more than one, or when `--distributed` leaves the finding to JAX.
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
# Clusters whose variables JAX reads, and how each counts its processes.
CLUSTERS: dict[str, Callable[[str], int]] = {
    "TPU_WORKER_HOSTNAMES": lambda names: len(names.split(",")),  # GKE
    "MEGASCALE_NUM_SLICES": int,  # several TPU slices
    "SLURM_STEP_NUM_TASKS": int,  # set by srun, not by sbatch
    "OMPI_COMM_WORLD_SIZE": int,
}


class ClusterError(UserError):
    """Processes that cannot be joined as they were described."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """How this process meets the others; what is None, JAX finds out."""

    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def processes(
    flags: Mapping[str, Any], environment: Mapping[str, str], distributed: bool | None
) -> Processes | None:
    """Decides whether, and how, this process is one of several.

    Args:
      flags: values of `VARIABLES`' keys, None where not given.
      environment: variables of the operating system.
      distributed: True lets JAX ask the cluster, a TPU VM's metadata server for one;
        False is this process alone; None goes by flags and environment.

    Returns:
      None for a process alone.

    Raises:
      ClusterError: naming the flag or variable and what it should be.
    """
    found = {name: flags[name] for name in VARIABLES if flags[name] is not None}
    named = {name: f"--{name}" for name in found}
    if distributed is False:
        if found:
            given = ", ".join(named.values())
            raise ClusterError(f"--nodistributed contradicts {given}; drop one of them")
        return None
    for name, variable in VARIABLES.items():
        if name not in found and variable in environment:
            found[name], named[name] = environment[variable], variable
    absent = [name for name in VARIABLES if name not in found]
    if found and absent and not distributed:
        given = ", ".join(named.values())
        missing = ", ".join(f"--{name} or {VARIABLES[name]}" for name in absent)
        raise ClusterError(f"{given} without {missing}: the three go together")
    if found:
        return _checked(found, named)
    if distributed or any(
        _count(name, environment[name], count) > 1
        for name, count in CLUSTERS.items()
        if name in environment
    ):
        return Processes()
    return None


def join(them: Processes | None) -> None:
    """Meets the other processes, before anything asks for devices.

    Raises:
      ClusterError: if they cannot be found or do not come.
    """
    if them is None:
        return
    try:
        jax.distributed.initialize(
            them.coordinator_address, them.num_processes, them.process_id
        )
    except Exception as error:  # JAX, its clusters and gRPC raise many kinds
        reason = str(error).partition("\n")[0]
        raise errors.lack(error) or ClusterError(
            f"cannot join the processes of this run ({reason}); name "
            "--coordinator_address=HOST:PORT, --num_processes and --process_id, or "
            "start one process with --nodistributed"
        ) from error


def _checked(found: Mapping[str, Any], named: Mapping[str, str]) -> Processes:
    address = found.get("coordinator_address")
    if address is not None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 2**16:
            raise ClusterError(
                f"{named['coordinator_address']}={address!r} is not HOST:PORT, the "
                "machine of process 0 and a free port there, as in 10.0.0.2:8476"
            )
    numbers = {
        name: _integer(named[name], found[name])
        for name in ("num_processes", "process_id")
        if name in found
    }
    count, index = numbers.get("num_processes"), numbers.get("process_id")
    if count is not None and count < 1:
        raise ClusterError(f"{named['num_processes']}={count}: at least 1 is needed")
    if index is not None and (index < 0 or count is not None and index >= count):
        last = "" if count is None else f" to {count - 1}, one less than num_processes"
        raise ClusterError(
            f"{named['process_id']}={index}: processes count from 0{last}"
        )
    return Processes(address, count, index)


def _integer(name: str, value: Any) -> int:
    try:
        return int(value)
    except ValueError:
        raise ClusterError(f"{name}={value!r} is not a number") from None


def _count(name: str, value: str, count: Callable[[str], int]) -> int:
    try:
        return count(value)
    except ValueError:
        raise ClusterError(
            f"{name}={value!r} is not a number of processes; mend the variable, or "
            "start one process with --nodistributed"
        ) from None
