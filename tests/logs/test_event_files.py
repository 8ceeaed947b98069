import contextlib

import jax
import jax.numpy as jnp
import numpy as np

from vl_ltr_jax.logs import event_files as vl_ltr_logs
from vl_ltr_jax.logs.event_files import Logs, read_scalars
from worlds.file_damage import full_disk


def read_events(directory):
    from tensorboard.backend.event_processing import event_accumulator

    events = event_accumulator.EventAccumulator(str(directory))
    events.Reload()
    return events


def test_event_files_read_back(tmp_path):
    with Logs(tmp_path) as logs:
        logs.scalars(3, {"loss/visual": jnp.float32(0.5), "accuracy/top1": 71.25})
        logs.text(0, "report", "many **few** \ud800")
        logs.images(0, "batch", np.full((2, 4, 6, 3), 255, np.uint8))
        configuration = {"seed": 1, "data.root": None, "data.sampling": "sqrt"}
        logs.result("runs/first", configuration, {"accuracy/top1": 71.25})
    events = read_events(tmp_path)
    from tensorboard.util.tensor_util import make_ndarray

    values = {
        tag: make_ndarray(event.tensor_proto)
        for tag in events.Tags()["tensors"]
        for event in events.Tensors(tag)
    }
    assert (values["loss/visual"], values["accuracy/top1"]) == (0.5, 71.25)
    assert values["report"] == b"many **few** ?"  # no file holds half a pair
    width, height, *pngs = values["batch"]
    assert (width, height, len(pngs)) == (b"6", b"4", 2)
    assert "hparams" not in events.summary_metadata  # every scalar would be a metric
    row = read_events(tmp_path / "result")
    assert row.Tags()["tensors"] == ["_hparams_/session_start_info", "accuracy/top1"]
    hparams = row.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    for name in (b"runs/first", b"seed", b"data.root", b"data.sampling", b"sqrt"):
        assert name in hparams


def test_curves_of_a_resumed_run_are_joined(tmp_path):
    """Breaks if the first file wins, or TensorBoard's sample of ten steps is read."""
    assert read_scalars(tmp_path) == read_scalars(tmp_path / "none") == {}
    run = tmp_path / "run [1]"  # looks like a pattern
    for first, last, scale in ((1, 30, 1.0), (21, 40, 100.0)):
        with Logs(run) as logs:
            logs.text(0, "report", "no curve")
            for step in range(first, last + 1):
                logs.scalars(step, {"loss/total": scale * step})
            logs.scalars(last, {"accuracy/top1": scale})
    curves = read_scalars(run)
    assert curves.keys() == {"loss/total", "accuracy/top1"}
    steps, values = curves["loss/total"]
    np.testing.assert_array_equal(steps, np.arange(1, 41))
    np.testing.assert_array_equal(values, np.where(steps > 20, 100.0, 1.0) * steps)
    steps, values = curves["accuracy/top1"]
    assert (steps.tolist(), values.tolist()) == ([30, 40], [1.0, 100.0])


def test_a_full_disk_costs_metrics_and_no_more(tmp_path, monkeypatch, capsys):
    """Breaks if it raises, is told of at each step, or if metrics end for good."""
    values = {str(number): 0.0 for number in range(20)}  # more than TensorFlow holds
    with Logs(tmp_path, title="pretrain") as logs:
        for step in range(20):
            with full_disk() if 5 <= step < 15 else contextlib.nullcontext():
                logs.scalars(step, values)
                logs._thread.submit(int).result()  # it is written, or is not
    steps, _ = read_scalars(tmp_path)["0"]
    assert set(steps) >= {0, 1, 2, 3, *range(15, 20)}
    assert not set(steps) & {*range(6, 15)}
    monkeypatch.setattr(vl_ltr_logs, "_PROBE_BYTES", 1)  # too little
    with full_disk(), Logs(tmp_path / "end") as logs:
        logs.scalars(0, values)
        logs._thread.submit(int).result()
        logs.result("run", {"seed": 0}, {"accuracy/top1": 1.0})
    first, again, last, row = capsys.readouterr().err.splitlines()
    assert first.startswith("warning: pretrain: ") and "File too large" in first
    assert again.startswith("pretrain: ") and "File too large" in last
    assert "HPARAMS" in row


def test_curves_are_read_where_only_tensorflow_has_a_file_system():
    """A bucket's URL reaches TensorFlow as it is; `ram://` is one without a network."""
    import tensorflow

    with tensorflow.summary.create_file_writer("ram://run/finetune").as_default():
        tensorflow.summary.scalar("loss/total", 0.5, step=3)
    steps, values = read_scalars("ram://run/finetune")["loss/total"]
    assert (steps.tolist(), values.tolist()) == ([3], [0.5])


def test_steps_are_profiled_on_request(tmp_path):
    """Breaks if a stage ends before as many steps as asked for, and loses them."""
    step = jax.jit(lambda x: x @ x)
    with Logs(tmp_path, profile_steps=2) as logs:
        for count in range(1, 7):
            jax.block_until_ready(step(jnp.ones((8, 8))))
            logs.after_step(count)
    (profile,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    assert profile.stat().st_size > 0


def test_the_parameter_table_is_written_and_its_total_said(tmp_path, capsys):
    params = {"visual": {"kernel": jnp.zeros((3, 400)), "bias": jnp.zeros(400)}}
    params["scale"] = jnp.zeros(())
    with Logs(tmp_path) as logs:
        logs.parameters(params)
    assert capsys.readouterr().err == "1,601 parameters in 3 arrays\n"
    (event,) = read_events(tmp_path).Tensors("parameters")
    table = event.tensor_proto.string_val[0].decode()
    assert "visual/kernel | (3, 400) | float32 | 1,200" in " ".join(table.split())


def test_only_the_first_process_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with Logs(tmp_path / "run") as logs:
        logs.scalars(1, {"loss": 1.0})
        logs.result("run", {"seed": 0}, {})
        logs.parameters({"bias": jnp.zeros(1)})
        logs.message("hello")
        logs.progress(1, 2, {}, steps_per_second=1.0, images_per_second=1.0)
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "run").exists()


def test_a_log_file_gets_lines_of_progress(tmp_path, capsys):
    values = {"loss/contrastive": 3.14159, "loss/total": 2.5, "accuracy/top1": 50.0}
    with Logs(tmp_path, title="pretrain", plain_seconds=0) as logs:
        logs.expect(900, 5000)
        logs.after_step(50)
        logs.progress(
            1000, 5000, values, steps_per_second=2.0, images_per_second=2048.0
        )
    early, late = capsys.readouterr().err.splitlines()
    assert early.startswith("pretrain 949/5000 (19%)")
    assert late.startswith("pretrain 1000/5000 (20%)  33:20 left")
    assert late.endswith("2,048 images/s  loss 2.5  contrastive 3.142")
    assert logs.losses == {"loss": 2.5, "contrastive": 3.14159}
