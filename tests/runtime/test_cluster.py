import pytest

from vl_ltr_jax.runtime import cluster
from vl_ltr_jax.runtime.cluster import ClusterError, Processes

NOTHING = dict.fromkeys(cluster.VARIABLES)
MEETING = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.2:8476",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}


def decide(environment=None, distributed=None, **flags):
    return cluster.processes({**NOTHING, **flags}, environment or {}, distributed)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"SLURM_NTASKS": "8"}, None),  # inside sbatch, but not started by srun
        ({"TPU_WORKER_HOSTNAMES": "host-0,host-1"}, Processes()),
        ({"MEGASCALE_NUM_SLICES": "2"}, Processes()),
        ({"SLURM_STEP_NUM_TASKS": "16"}, Processes()),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, Processes()),
    ],
)
def test_a_cluster_of_several_is_left_to_jax(environment, expected):
    """Breaks if a laptop or a single host would look for others on the network."""
    assert decide(environment) == expected
    assert decide(environment, distributed=False) is None


def test_variables_and_flags_say_where_to_meet():
    assert decide(MEETING) == Processes("10.0.0.2:8476", 4, 3)
    assert decide(MEETING, process_id=0) == Processes("10.0.0.2:8476", 4, 0)
    flags = {"coordinator_address": "a:1", "num_processes": 2, "process_id": 1}
    assert decide(**flags) == Processes("a:1", 2, 1)
    assert decide(distributed=True) == Processes()


@pytest.mark.parametrize(
    ("environment", "flags", "named"),
    [
        ({}, {"num_processes": 2}, "--num_processes"),
        ({"JAX_PROCESS_ID": "1"}, {}, "JAX_PROCESS_ID"),
        (MEETING, {"coordinator_address": "here:0"}, "--coordinator_address"),
        ({**MEETING, "JAX_PROCESS_ID": "4"}, {}, "JAX_PROCESS_ID=4"),
        (MEETING, {"num_processes": 0}, "--num_processes=0"),
        ({**MEETING, "JAX_NUM_PROCESSES": "two"}, {}, "JAX_NUM_PROCESSES='two'"),
        ({"SLURM_STEP_NUM_TASKS": "x"}, {}, "SLURM_STEP_NUM_TASKS='x'"),
        ({}, {"distributed": False, "process_id": 0}, "--process_id"),
    ],
)
def test_a_flag_or_variable_that_does_not_fit_is_named(environment, flags, named):
    with pytest.raises(ClusterError, match=named):
        decide(environment, **flags)


def test_processes_that_cannot_be_joined_end_in_one_message():
    """JAX's own detection finds no cluster here."""
    with pytest.raises(ClusterError, match="--nodistributed"):
        cluster.join(Processes())
