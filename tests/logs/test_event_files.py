import contextlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
        logs.scalars(4, {"loss/visual": np.float64(0.25)})
        logs.text(0, "report", "many **few**")
        logs.images(0, "batch", np.full((2, 4, 6, 3), 255, np.uint8))
        configuration = {"seed": 1, "data.root": None, "data.sampling": "sqrt"}
        logs.result("runs/first", configuration, {"accuracy/top1": 71.25})
    events = read_events(tmp_path)
    tensors = {
        (tag, event.step): event.tensor_proto
        for tag in events.Tags()["tensors"]
        for event in events.Tensors(tag)
    }
    from tensorboard.util.tensor_util import make_ndarray

    assert make_ndarray(tensors["loss/visual", 3]) == 0.5
    assert make_ndarray(tensors["loss/visual", 4]) == 0.25
    assert make_ndarray(tensors["accuracy/top1", 3]) == 71.25
    assert make_ndarray(tensors["report", 0]) == b"many **few**"
    width, height, *pngs = make_ndarray(tensors["batch", 0])
    assert (width, height) == (b"6", b"4")
    assert [png[1:4] for png in pngs] == [b"PNG"] * 2
    assert "hparams" not in events.summary_metadata  # every scalar would be a metric
    row = read_events(tmp_path / "result")
    assert row.Tags()["tensors"] == ["_hparams_/session_start_info", "accuracy/top1"]
    hparams = row.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    for name in (b"runs/first", b"seed", b"data.root", b"data.sampling", b"sqrt"):
        assert name in hparams


def test_text_that_no_file_can_hold_is_written_all_the_same(tmp_path):
    with Logs(tmp_path) as logs:
        logs.text(0, "anchors", "half a pair \ud800")
        logs.result("\udfff", {"data.name": "\udfff"}, {})
    (event,) = read_events(tmp_path).Tensors("anchors")
    assert event.tensor_proto.string_val[0] == b"half a pair ?"


def test_curves_of_a_resumed_run_are_joined(tmp_path):
    """Breaks if the first file wins, or TensorBoard's sample of ten steps is read."""
    assert read_scalars(tmp_path) == read_scalars(tmp_path / "none") == {}
    for first, last, scale in ((1, 30, 1.0), (21, 40, 100.0)):
        with Logs(tmp_path) as logs:
            logs.text(0, "report", "no curve")
            for step in range(first, last + 1):
                logs.scalars(step, {"loss/total": scale * step})
            logs.scalars(last, {"accuracy/top1": scale})
    curves = read_scalars(tmp_path)
    assert curves.keys() == {"loss/total", "accuracy/top1"}
    steps, values = curves["loss/total"]
    np.testing.assert_array_equal(steps, np.arange(1, 41))
    np.testing.assert_array_equal(values, np.where(steps > 20, 100.0, 1.0) * steps)
    steps, values = curves["accuracy/top1"]
    assert (steps.tolist(), values.tolist()) == ([30, 40], [1.0, 100.0])


def test_a_full_disk_costs_metrics_and_no_more(tmp_path, monkeypatch, capsys):
    """Breaks if it raises, is told of at each step, or if metrics end for good."""

    class Synchronous:
        def __init__(self, *args):
            pass

        def submit(self, function, *args):
            function(*args)

        def shutdown(self):
            pass

    monkeypatch.setattr(vl_ltr_logs, "ThreadPoolExecutor", Synchronous)
    values = {str(number): 0.0 for number in range(20)}  # more than TensorFlow holds
    with Logs(tmp_path, title="pretrain") as logs:
        for step in range(20):
            with full_disk() if 5 <= step < 15 else contextlib.nullcontext():
                logs.scalars(step, values)
    steps, _ = read_scalars(tmp_path)["0"]
    assert set(steps) >= {0, 1, 2, 3, *range(15, 20)} and not set(steps) & {
        *range(6, 15)
    }
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(vl_ltr_logs, "_PROBE_BYTES", 1)  # too little
    with full_disk(), Logs(tmp_path / "end") as logs:
        for step in range(3):
            logs.scalars(step, values)
        logs.result("run", {"seed": 0}, {"accuracy/top1": 1.0})
    first, again, last, row = capsys.readouterr().err.splitlines()
    for warning in (first, last):
        assert "metrics are not written: " in warning and "File too large" in warning
        assert "training goes on" in warning
    assert first.startswith("warning: pretrain: ")
    assert again == "pretrain: metrics are written again"
    assert "HPARAMS tab is not written" in row


def test_curves_are_read_where_the_path_looks_like_a_pattern(tmp_path):
    with Logs(tmp_path / "run [1]") as logs:
        logs.scalars(3, {"loss/total": 0.5})
    assert read_scalars(tmp_path / "run [1]").keys() == {"loss/total"}


def test_curves_are_read_where_only_tensorflow_has_a_file_system():
    """A bucket's URL reaches TensorFlow as it is; `ram://` is one without a network."""
    import tensorflow

    with tensorflow.summary.create_file_writer("ram://run/finetune").as_default():
        tensorflow.summary.scalar("loss/total", 0.5, step=3)
    steps, values = read_scalars("ram://run/finetune")["loss/total"]
    assert (steps.tolist(), values.tolist()) == ([3], [0.5])


@pytest.mark.parametrize("last_step", [8, 6])
def test_steps_are_profiled_on_request(tmp_path, last_step):
    """Also where the stage ends before as many steps as were asked for."""
    step = jax.jit(lambda x: x @ x)
    with Logs(tmp_path, profile_steps=2) as logs:
        for count in range(1, last_step + 1):
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
        logs.text(1, "report", "text")
        logs.images(1, "batch", np.zeros((1, 1, 1, 3), np.uint8))
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
    with Logs(tmp_path, title="pretrain", plain_seconds=30) as logs:
        logs.expect(0, 10)
        logs.after_step(5)
    assert capsys.readouterr().err == ""


def test_tensorflow_is_imported_late_and_silently(tmp_path):
    """Importing CLU at the top of the module would take three seconds everywhere."""
    code = (
        "import sys, vl_ltr_jax.logs.event_files as logs\n"
        "assert 'tensorflow' not in sys.modules and 'clu' not in sys.modules\n"
        f"with logs.Logs({str(tmp_path)!r}) as writer: writer.scalars(1, {{'a': 1.0}})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
