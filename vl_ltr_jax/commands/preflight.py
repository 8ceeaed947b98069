"""Preflight: every program of a run, compiled for devices that need not be here.

python -m vl_ltr_jax.preflight --config=configs/places_lt.py --topology=v5e:2x4
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags
from etils import epath

from vl_ltr_jax.commands import exits
from vl_ltr_jax.commands import flags as commands_flags
from vl_ltr_jax.commands.command import Command
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.logs import console
from vl_ltr_jax.preflight import fit, inputs, topology
from vl_ltr_jax.preflight.fit import Measured
from vl_ltr_jax.preflight.topology import GIB, Topology
from vl_ltr_jax.run.depends import settled
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.stages import pipeline
from vl_ltr_jax.storage.artifact import write_whole

_TOPOLOGY = flags.DEFINE_string(
    "topology",
    None,
    "Devices: v5e:2x4, v4:2x2x2, v5p:2x2x2, v6e:2x4, h100:8, a100-40:8, a100-80:8, "
    "rtx4090:1, or local for those of this machine.",
)
_STAGES = flags.DEFINE_list(
    "stages", [], "Stages to compile, such as pretrain,finetune; by default all."
)
_JSON = flags.DEFINE_string("json", None, "File for all figures.")
_CLASSES = flags.DEFINE_integer("classes", 0, "Number of classes to assume.", 0)
_IMAGES = flags.DEFINE_integer("train_images", 0, "Training images to assume.", 0)
_SENTENCES = flags.DEFINE_integer("sentences", 0, "Sentences to assume.", 0)
COMMAND = Command(
    "vl_ltr_jax.preflight",
    "Compiles every program of a run by the compiler of its devices, which need not be "
    "here, and prints whether each fits. The exit code is 1 if one does not.",
    (
        (
            "the authors' batch on eight TPU v5e chips (pip install -e '.[aot-tpu]')",
            "--config=configs/places_lt.py --topology=v5e:2x4",
        ),
        (
            "pre-training alone on eight H100 (pip install -e '.[aot-cuda]')",
            "--config=configs/places_lt.py --topology=h100:8 --stages=pretrain",
        ),
    ),
)
_HEADER = (
    *("stage", "program", "chunks", "GiB: arguments", "temporary", "peak", "fits"),
    *("TFLOP", "GB moved", "MiB of collectives", "estimated ms", "of peak", "compiled"),
)


def main(argv: Sequence[str]) -> None:
    """Compiles and prints."""
    del argv
    with exits.refusing():
        devices, config, measured, notes = _measure()
    rows = [_row(one) for one in measured]
    print(f"{devices.name}: {len(devices.devices)} devices of {_memory(devices)}")
    print("\n".join(f"- {note}" for note in notes))
    for cells in (_HEADER, ("---",) * len(_HEADER), *rows):
        print(f"| {' | '.join(cells)} |")
    for one in measured:
        if one.figures.error:
            print(f"{one.stage}, {one.program}: {one.figures.error}")
    for name, changes in _changes(measured).items():
        words = " ".join(f"--config.{key}={value}" for key, value in changes.items())
        print(f"{name} fits with {words}")
    fits = all(one.figures.fits for one in measured)
    if _JSON.value:
        content = {
            "topology": devices.name,
            "devices": len(devices.devices),
            "memory_bytes": devices.memory_bytes,
            "fits": fits,
            "assumed": notes,
            "programs": [_as_json(one) for one in measured],
        }
        write_whole(epath.Path(_JSON.value), json.dumps(content, indent=2))
    sys.exit(0 if fits else 1)


def _measure() -> tuple[Topology, Any, list[Measured], list[str]]:
    if not _TOPOLOGY.value:
        raise configs.ConfigError(
            f"--topology=NAME: missing. Examples: {topology.EXAMPLES}."
        )
    config = commands_flags.planned_config(COMMAND)
    devices = topology.read(_TOPOLOGY.value)
    config = settled(config, None, devices.devices[0].platform)
    configs.check_devices(config, len(devices.devices))
    counts = inputs.Counts(
        classes=_CLASSES.value, train=_IMAGES.value, sentences=_SENTENCES.value
    )
    planned, notes = inputs.read(config, counts)
    notes.append(f"computes in {config.model.compute_dtype}")
    stages = pipeline.planned(config, planned)
    if unknown := set(_STAGES.value) - set(stages):
        raise configs.ConfigError(
            f"--stages={','.join(sorted(unknown))}: this run has {', '.join(stages)}."
        )
    mesh = meshes.make_mesh(
        config.mesh.data, config.mesh.model, devices=devices.devices
    )
    measured: list[Measured] = []
    for name in stages:
        if not _STAGES.value or name in _STAGES.value:
            measured += fit.stage(config, planned, mesh, devices, name, say=console.say)
    return devices, config, measured, notes


def _memory(devices: Topology) -> str:
    return f"{devices.memory_bytes / GIB:.2f} GiB"


def _row(one: Measured) -> tuple[str, ...]:
    figures = one.figures
    sent = None
    if figures.collectives is not None:
        sent = sum(count["output_bytes"] for count in figures.collectives.values())
    return (
        one.stage,
        one.program,
        str(one.accumulation_steps),
        _number(figures.argument_bytes, GIB, 2),
        _number(figures.temporary_bytes, GIB, 2),
        _number(figures.peak_bytes, GIB, 2),
        "yes" if figures.fits else "**no**",
        _number(figures.flops, 1e12, 2),
        _number(figures.bytes_accessed, 1e9, 1),
        _number(sent, 2**20, 0),
        _number(figures.estimated_seconds, 1e-3, 1),
        _number(figures.utilisation, 0.01, 0, "%"),
        f"{figures.compile_seconds:.0f} s",
    )


def _number(value: float | None, unit: float, digits: int, sign: str = "") -> str:
    return "" if value is None else f"{value / unit:,.{digits}f}{sign}"


def _changes(measured: Sequence[Measured]) -> dict[str, dict[str, Any]]:
    """Returns the changes of each stage whose steps need some."""
    return {
        one.stage: dict(one.changes)
        for one in measured
        if one.changes and one.figures.fits
    }


def _as_json(one: Measured) -> dict[str, Any]:
    return {
        "stage": one.stage,
        "program": one.program,
        "accumulation_steps": one.accumulation_steps,
        "changes": dict(one.changes),
        **one.figures._asdict(),
    }


def run() -> None:
    """Runs the command in this process."""
    topology.prepare()
    commands_flags.start(main, COMMAND)
