import pytest

from vl_ltr_jax.runtime import cluster
from vl_ltr_jax.runtime.cluster import Processes

NOTHING = dict.fromkeys(cluster.VARIABLES)
MEETING = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.2:8476",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}


def decide(environment=None, distributed=None, **flags):
    return cluster.processes({**NOTHING, **flags}, environment or {}, distributed)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
        {"SLURM_NTASKS": "8"},  # inside sbatch, but not started by srun
        {"SLURM_STEP_NUM_TASKS": "1"},
        {"OMPI_COMM_WORLD_SIZE": "1"},
    ],
)
def test_a_plain_start_is_one_process(environment):
    """Breaks if a laptop or a single host would look for others on the network."""
    assert decide(environment) is None


@pytest.mark.parametrize(
    "environment",
    [
        {"TPU_WORKER_HOSTNAMES": "host-0,host-1"},
        {"MEGASCALE_NUM_SLICES": "2"},
        {"SLURM_STEP_NUM_TASKS": "16"},
        {"OMPI_COMM_WORLD_SIZE": "2"},
    ],
)
def test_a_cluster_of_several_is_left_to_jax(environment):
    assert decide(environment) == Processes()
    assert decide(environment, distributed=False) is None


def test_variables_and_flags_say_where_to_meet():
    assert decide(MEETING) == Processes("10.0.0.2:8476", 4, 3)
    assert decide(MEETING, process_id=0) == Processes("10.0.0.2:8476", 4, 0)
    assert decide(MEETING, distributed=True) == Processes("10.0.0.2:8476", 4, 3)
    assert decide(MEETING, distributed=False) is None
    flags = {"coordinator_address": "a:1", "num_processes": 2, "process_id": 1}
    assert decide(**flags) == Processes("a:1", 2, 1)
    assert decide(distributed=True) == Processes()
    assert decide(distributed=True, process_id=1) == Processes(process_id=1)


@pytest.mark.parametrize(
    ("environment", "flags", "message"),
    [
        ({}, {"num_processes": 2}, "--num_processes without --coordinator_address or"),
        (
            {"JAX_PROCESS_ID": "1"},
            {},
            "JAX_PROCESS_ID without --coordinator_address or JAX_COORDINATOR_ADDRESS",
        ),
        (
            MEETING,
            {"coordinator_address": "here"},
            "--coordinator_address='here' is not HOST:PORT",
        ),
        (MEETING, {"coordinator_address": "here:0"}, "is not HOST:PORT"),
        ({**MEETING, "JAX_PROCESS_ID": "4"}, {}, "JAX_PROCESS_ID=4: .* from 0 to 3"),
        ({**MEETING, "JAX_PROCESS_ID": "-1"}, {}, "JAX_PROCESS_ID=-1: .* from 0 to 3"),
        ({}, {"distributed": True, "process_id": -1}, "--process_id=-1: .* from 0$"),
        (MEETING, {"num_processes": 0}, "--num_processes=0: at least 1"),
        ({**MEETING, "JAX_NUM_PROCESSES": "two"}, {}, "'two' is not a number"),
        ({"SLURM_STEP_NUM_TASKS": "x"}, {}, "SLURM_STEP_NUM_TASKS='x' is not a number"),
        (
            {},
            {"distributed": False, "process_id": 0},
            "--nodistributed contradicts --process_id",
        ),
    ],
)
def test_what_does_not_fit_is_named(environment, flags, message):
    with pytest.raises(ValueError, match=message):
        decide(environment, **flags)


def test_processes_that_cannot_be_joined_end_in_one_message():
    """JAX's own detection finds no cluster here."""
    with pytest.raises(cluster.ClusterError, match="cannot join .*--nodistributed"):
        cluster.join(Processes())
