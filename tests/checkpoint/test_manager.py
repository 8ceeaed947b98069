import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

from vl_ltr_jax.checkpoint import restore
from vl_ltr_jax.checkpoint.manager import Checkpoints
from vl_ltr_jax.checkpoint.mismatch import MisfitError
from vl_ltr_jax.checkpoint.restore import (
    CheckpointError,
    DamagedError,
    load_params,
    restore_up_to,
)
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.runtime.errors import SystemFault
from worlds.file_damage import flip, largest_file
from worlds.loop_world import State, assert_bit_equal


def make_state(seed=0, *, width=8, batch_stats=None):
    rng = np.random.default_rng(seed)
    params = {
        "visual": {"kernel": rng.normal(size=(16, width)).astype(np.float32)},
        "frozen": {"bias": np.zeros(3, np.float32)},
    }
    groups = {"visual": {"kernel": "adam"}, "frozen": {"bias": "frozen"}}
    schedule = optax.cosine_decay_schedule(1e-3, 10)
    tx = optax.partition(
        {"adam": optax.adamw(schedule), "frozen": optax.set_to_zero()}, groups
    )
    params = meshes.place(params, meshes.replicated(meshes.make_mesh()))
    state = State(jnp.int32(seed), params, batch_stats or {}, tx.init(params))
    return meshes.place(state, meshes.replicated(meshes.make_mesh()))


def one_array(step):
    """Makes a state of one array: Orbax warns about others when one is unreadable."""
    return State(jnp.int32(step), {"kernel": jnp.full((4, 4), 1.0 * step)}, {}, {})


def corrupt(directory, step):
    for path in (directory / str(step) / "model").rglob("d/*"):
        path.write_bytes(b"not a tensor")


def test_the_newest_state_and_its_meta_come_back(tmp_path):
    state = make_state(7, batch_stats={"bn": jnp.arange(4.0)})
    with Checkpoints(tmp_path / "run", every_steps=2, keep=2) as checkpoints:
        assert checkpoints.restore_latest(state) is None
        for step in (2, 4, 6):
            checkpoints.save(step, state, {"seed": 1, "names": ["a"]})
        assert checkpoints.latest_step == 6
        checkpoints.save(6, make_state(0))  # saved already: the first stays
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["4", "6"]
    with Checkpoints(tmp_path / "run", every_steps=2, keep=2) as checkpoints:
        template = make_state(0, batch_stats={"bn": jnp.zeros(4)})
        restored, meta = checkpoints.restore_latest(template)
        assert_bit_equal(restored, state)
        assert meta == {"seed": 1, "names": ["a"]}
        assert checkpoints.due(4) and not checkpoints.due(5)
        assert not checkpoints.reached_preemption(6)


def test_restoring_follows_the_template_to_another_mesh(tmp_path):
    state = make_state(3)
    mesh = meshes.make_mesh(4, 2)
    shardings = meshes.shard_largest_axis(mesh, state, min_elements=1)
    template = meshes.place(make_state(0), shardings)
    with Checkpoints(tmp_path, every_steps=1) as checkpoints:
        checkpoints.save(3, state)
        restored, _ = checkpoints.restore_latest(template)
    assert_bit_equal(restored, state)
    kernel = restored.params["visual"]["kernel"]
    assert kernel.sharding == shardings.params["visual"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (4, 8)


def test_another_shape_or_dtype_and_other_arrays_are_refused_and_named(tmp_path):
    """Orbax itself would cast float32 to bfloat16 without a word."""
    state = make_state(1)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state.params)
    renamed = {**state.params, "visuals": state.params["visual"]}
    del renamed["visual"]
    with Checkpoints(tmp_path, every_steps=1) as checkpoints:
        checkpoints.save(1, state)
        for template, named in (
            (make_state(1, width=16), "params/visual/kernel"),
            (state.replace(params=half), "bfloat16"),
            (state.replace(params=renamed), "(?s)visuals/kernel.*visual/kernel"),
        ):
            with pytest.raises(MisfitError, match=named):
                checkpoints.restore_latest(template)


def random_state(step):
    """Larger than its description, and incompressible."""
    values = np.random.default_rng(step).normal(size=(256, 64)).astype(np.float32)
    return State(jnp.int32(step), {"kernel": jnp.asarray(values)}, {}, {})


def of_largest(change):
    """Changes the largest file of the model."""
    return lambda step: change(largest_file(step / "model"))


def of_meta(text, damaged):
    def change(step):
        path = step / "meta" / "metadata"
        path.write_text(path.read_text().replace(text, damaged))

    return change


@pytest.mark.parametrize(
    "damage",
    [
        of_largest(flip),
        of_largest(lambda path: path.unlink()),
        of_meta("102", "902"),
        of_meta('"checksums"', '"checksumz"'),
    ],
    ids=["flipped", "missing", "meta", "meta's keys"],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, capsys, damage):
    """Breaks without checksums: Orbax restores a flipped bit without a word."""
    with Checkpoints(tmp_path, every_steps=1) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, random_state(step), {"seconds": 100 + step})
    damage(tmp_path / "2")
    with pytest.raises(DamagedError, match="checkpoint 2") as caught:
        load_params(tmp_path)
    assert caught.value.directory == epath.Path(tmp_path)
    with Checkpoints(tmp_path, every_steps=1) as checkpoints:
        restored, meta = checkpoints.restore_latest(random_state(0))
        assert_bit_equal(restored, random_state(1))
        assert (meta, checkpoints.latest_step) == ({"seconds": 101}, 1)
        checkpoints.save(2, random_state(5))  # its place is free
    assert f"checkpoint 2 in {tmp_path}" in capsys.readouterr().err
    assert (tmp_path / "unreadable-2").is_dir()


def test_one_misfit_among_those_that_fit_is_damage(tmp_path, capsys):
    """A flipped byte in the description of the arrays may well be readable."""
    with Checkpoints(tmp_path, every_steps=1) as checkpoints:
        checkpoints.save(1, one_array(1))
        checkpoints.save(2, make_state(2))
    with Checkpoints(tmp_path, every_steps=1) as checkpoints:
        restored, _ = checkpoints.restore_latest(one_array(0))
    assert_bit_equal(restored, one_array(1))
    assert "checkpoint 2" in capsys.readouterr().err


def test_additional_checkpoints_of_a_killed_run_are_deleted(tmp_path):
    with Checkpoints(tmp_path, every_steps=1, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, one_array(step))
    with Checkpoints(tmp_path, every_steps=1, keep=2) as checkpoints:
        checkpoints.restore_latest(one_array(0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "3"]


def test_no_readable_checkpoint_is_an_error_not_a_fresh_start(tmp_path):
    with Checkpoints(tmp_path, every_steps=1) as checkpoints:
        checkpoints.save(1, one_array(1))
    corrupt(tmp_path, 1)
    with Checkpoints(tmp_path, every_steps=1) as checkpoints:
        with pytest.raises(CheckpointError, match=r"\[1\]"):
            checkpoints.restore_latest(one_array(0))
    with pytest.raises(CheckpointError, match="checkpoint 1"):
        load_params(tmp_path)


def test_a_look_at_a_step_reads_the_newest_before_it_and_changes_nothing(tmp_path):
    """Breaks if it moves aside, as a run does, what cannot be read."""
    assert restore_up_to(tmp_path / "absent", 9, one_array(0)) is None
    with Checkpoints(tmp_path, every_steps=1, keep=9) as checkpoints:
        for step in (1, 2, 4, 6):
            checkpoints.save(step, one_array(step), {"saved": step})
    corrupt(tmp_path, 2)
    before = set(tmp_path.rglob("*"))
    for limit, step in ((5, 4), (4, 4), (3, 1), (99, 6)):
        restored, meta = restore_up_to(tmp_path, limit, one_array(0))
        assert_bit_equal(restored, one_array(step))
        assert meta == {"saved": step}
    assert restore_up_to(tmp_path, 0, one_array(0)) is None
    corrupt(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"\[1, 2\]"):
        restore_up_to(tmp_path, 3, one_array(0))
    assert set(tmp_path.rglob("*")) == before


def test_the_next_stage_reads_only_the_model(tmp_path):
    state = make_state(1)
    with Checkpoints(tmp_path, every_steps=1) as checkpoints:
        checkpoints.save(1, make_state(0))
        checkpoints.save(2, state)
    for path in (tmp_path / "2" / "training").rglob("*"):
        if path.is_file():
            path.write_bytes(b"never read")
    variables = load_params(tmp_path)
    assert list(variables) == ["params"]
    assert isinstance(variables["params"]["visual"]["kernel"], np.ndarray)
    assert_bit_equal(variables["params"], jax.device_get(state.params))


def test_the_checkpoint_before_the_last_is_not_handed_over(tmp_path):
    """Breaks when the newest there is passes for the end of the stage."""
    with Checkpoints(tmp_path, every_steps=1) as checkpoints:
        checkpoints.save(1, one_array(1))
    assert_bit_equal(load_params(tmp_path, last_step=1)["params"], one_array(1).params)
    with pytest.raises(DamagedError, match="step 2"):
        load_params(tmp_path, last_step=2)
    for absent in (tmp_path / "absent", tmp_path / "1"):
        with pytest.raises(CheckpointError, match=str(absent)):
            load_params(absent)


def test_a_donated_state_is_saved_as_it_was(tmp_path):
    """Copying lazily instead of before `save` returns would store later values."""
    update = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    params = {"kernel": jnp.zeros((512, 1024))}
    with Checkpoints(tmp_path, every_steps=1, keep=9) as checkpoints:
        for step in range(1, 5):
            params = update(params)
            state = State(jnp.int32(step), params, {}, {})
            checkpoints.save(step, state)
    for step in range(1, 5):
        template = State(jnp.int32(0), params, {}, {})
        restored, _ = restore_up_to(tmp_path, step, template)
        assert np.unique(restored.params["kernel"]) == [step]


def test_want_of_threads_is_no_damage(tmp_path, monkeypatch):
    """Breaks if a sound checkpoint is moved aside, and training goes back."""

    def no_thread(*arguments):
        raise RuntimeError("can't start new thread")

    state = make_state(1)
    with Checkpoints(tmp_path, every_steps=1) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
        monkeypatch.setattr(restore, "_restore_step", no_thread)
        with pytest.raises(SystemFault, match="ulimit"):
            checkpoints.restore_latest(state)
        with pytest.raises(SystemFault, match="ulimit"):
            restore_up_to(tmp_path, 1, state)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
