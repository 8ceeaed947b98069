"""The check of a device, at sizes for a CPU: every row, its limits and exit codes."""

import importlib.util
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from vl_ltr_jax.benchmarks import device_check, device_parity, device_speed
from vl_ltr_jax.benchmarks.device_parity import Row, relative_error
from vl_ltr_jax.commands import exits
from vl_ltr_jax.train import flops, memory

CHECKOUT = Path(__file__).parents[2]


def run(tmp_path, *flags):
    """Returns the exit code, and the rows by their names."""
    path = tmp_path / "check.json"
    code = device_check.main(["--small", f"--json={path}", *flags])
    content = json.loads(path.read_text())
    assert content["complete"]
    return code, {row["check"]: row for row in content["rows"]}


def test_numbers_are_the_authors(tmp_path, capsys):
    code, rows = run(tmp_path, "--check=parity")
    assert code == 0
    assert len(rows) == 13
    judged = {row["limit"]: row["ok"] for row in rows.values()}
    assert judged.keys() >= {"1e-05", "0.0001", "0.05", "0"}
    errors = [rows[name]["values"]["relative_error"] for name in list(rows)[1:]]
    assert 0 < max(errors) < 0.05
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(rows)


def test_rates_and_memory_of_training(tmp_path, monkeypatch):
    monkeypatch.setattr(flops, "peak", lambda kind, dtype: 1e12)
    code, rows = run(tmp_path, "--check=vit")
    assert code == 0
    assert len(rows) == 4
    assert all(name.startswith("ViT-tiny, batch 64") for name in rows)
    values = {
        key: value for row in rows.values() for key, value in row["values"].items()
    }
    assert values["images_per_second"] == values["step"] > 0
    utilization = values["flops_per_second"] / 1e12
    assert 0 < values["model_flops_utilization"] == utilization < 1
    assert values["preflight_bytes"] > 2**20
    assert values["loader"] > 0 and values["fed_step"] > 0


def test_the_largest_batch_that_fits(monkeypatch):
    """A device that has less room than it says is listed, and gets half the batch."""
    peaks = []

    def measured(step, mesh, dtype, title, *, small):
        peaks.append(memory.peak(step.program))
        if step.job.plan.global_batch_size > 8:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room")
        yield Row(title, "", ok=True)

    def judged(room):
        monkeypatch.setattr(memory, "limit", lambda device: int(room))
        rows = device_speed.rows("ViT-tiny", small=False)
        return {row.check: row.ok for row in rows}

    monkeypatch.setattr(device_speed, "_measured", measured)
    monkeypatch.setattr(device_speed, "_FIRST", 1)
    monkeypatch.setattr(device_speed, "_MOST", 2)
    assert judged(1e12) == {"ViT-tiny, batch 16": False, "ViT-tiny, batch 8": True}
    assert peaks[0] > peaks[1]
    assert judged(peaks[1] * 1.03) == {"ViT-tiny, batch 8": True}
    assert peaks[2:] == peaks[1:2]


def test_a_killed_run_ends_with_the_same_bits(tmp_path, monkeypatch):
    alone = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    monkeypatch.setenv("XLA_FLAGS", alone)
    code, rows = run(tmp_path, "--check=bits")
    [row] = rows.values()
    assert code == 0, row
    assert row["values"]["faults"] == 0 and row["values"]["killed_after_step"] > 0


def test_differences_are_noticed(tmp_path):
    for name, accuracy in (("first", 1.0), ("second", 2.0)):
        (tmp_path / name).mkdir()
        content = {"test": accuracy, "cost": {"seconds": accuracy}}
        (tmp_path / name / "results.json").write_text(json.dumps(content))
    folders = tmp_path / "first", tmp_path / "second"
    assert len(list(device_check.differences(*folders))) == 1
    assert not list(device_check.differences(folders[0], folders[0]))
    (folders[0] / "pretrain" / "checkpoints" / "7").mkdir(parents=True)
    assert len(list(device_check.differences(*folders))) == 2


def test_a_wrong_number_makes_it_exit_1(tmp_path, monkeypatch):
    checkout = tmp_path / "checkout"
    for part in ("configs/shapes_lt.py", "tests/golden/anss", "tests/golden/lgr"):
        (checkout / part).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (CHECKOUT / part).is_dir() else shutil.copy
        copy(CHECKOUT / part, checkout / part)
    path = checkout / "tests" / "golden" / "anss" / "basic.npz"
    arrays = dict(np.load(path))
    arrays["sentence_ce"][3] *= 1 + 1e-3
    np.savez(path, **arrays)
    for name in ("_towers", "_losses"):
        monkeypatch.setattr(device_parity, name, lambda *arguments: iter(()))
    code, rows = run(tmp_path, "--check=parity", f"--checkout={checkout}")
    assert code == 1
    assert [name for name, row in rows.items() if row["ok"] is False] == [
        "AnSS, scores"
    ]


def test_checks_have_processes_of_their_own_and_a_budget(tmp_path, monkeypatch):
    """What there is no time for is listed: it fails if bits or numbers depend on it."""
    late = device_check.CHECKS["parity"]._replace(seconds=10**6)
    monkeypatch.setitem(device_check.CHECKS, "parity", late)
    code, rows = run(tmp_path, "--check=torch", "--check=parity")
    assert code == 1
    *programs, absent = rows.values()
    assert len(programs) == 2
    assert all(seconds > 0 for row in programs for seconds in row["values"].values())
    assert absent["check"] == "parity" and absent["ok"] is False

    hasty = device_check.CHECKS["vit"]._replace(seconds=0)
    monkeypatch.setitem(device_check.CHECKS, "vit", hasty)
    code, rows = run(tmp_path, "--check=vit", "--check=torch", "--seconds=1")
    assert code == 0
    assert {name: row["ok"] for name, row in rows.items()} == {
        "vit": None,
        "torch": None,
    }


def test_without_pytorch_its_rows_are_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, rows = run(tmp_path, "--check=torch")
    assert code == 0
    assert [(row["ok"], row["values"]) for row in rows.values()] == [(None, {})]


def test_a_checkout_without_golden_arrays_is_a_mistake(tmp_path):
    command = exits.with_codes(device_check.main)
    assert command(["--small", f"--checkout={tmp_path}"]) == 2


def test_errors_are_relative_and_nothing_hides_them():
    expected = np.array([1.0, -4.0, np.inf])
    assert relative_error(expected, expected) == 0
    assert relative_error([1.0, -4.4, np.inf], expected) == pytest.approx(0.1)
    for ours in ([1.0, np.nan, np.inf], [1.0, -4.0, 0.0], [1.0, -4.0], [np.inf] * 3):
        assert relative_error(ours, expected) == np.inf
    assert relative_error([1e-3], [0.0]) == pytest.approx(0.1)
