"""Preflight: every program of a run, compiled for devices that need not be here.

python -m vl_ltr_jax.preflight --config=configs/places_lt.py --topology=v5e:2x4
"""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags
from etils import epath

from vl_ltr_jax.commands import exits
from vl_ltr_jax.commands import flags as commands_flags
from vl_ltr_jax.commands.command import Command
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.logs import console
from vl_ltr_jax.preflight import fit, inputs, topology
from vl_ltr_jax.preflight.figures import lacks_memory
from vl_ltr_jax.preflight.fit import Measured
from vl_ltr_jax.preflight.topology import GIB, Topology
from vl_ltr_jax.run.depends import settled
from vl_ltr_jax.run.inputs import RunInputs
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
_CLASSES = flags.DEFINE_integer("num_classes", None, "Number of classes to assume.", 1)
_IMAGES = flags.DEFINE_integer("num_images", None, "Training images to assume.", 1)
_SENTENCES = flags.DEFINE_integer("num_sentences", None, "Sentences to assume.", 1)
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
    *("TFLOP", "GB moved", "MiB of collectives"),
    *("estimated ms", "and waiting", "of peak", "compiled"),
)


def main(argv: Sequence[str]) -> None:
    """Compiles and prints, program by program."""
    del argv
    with exits.refusing():
        devices, config, planned, notes = _planned()
        stages = _stages(config, planned)
        mesh = meshes.make_mesh(
            config.mesh.data, config.mesh.model, devices=devices.devices
        )
        print(f"{devices.name}: {len(devices.devices)} devices of {_memory(devices)}")
        notes.append(f"on {meshes.describe(mesh, config.mesh.fsdp)}")
        print("\n".join(f"- {note}" for note in notes))
        _print_row(_HEADER)
        _print_row(("---",) * len(_HEADER))
        measured: list[Measured] = []
        for stage in stages:
            programs = fit.stage(config, planned, mesh, devices, stage, say=console.say)
            for each in programs:
                measured.append(each)
                _print_row(_row(each))
        for line in _remarks(measured, devices):
            print(line)
        fits = all(each.fits(config) for each in measured)
        if _JSON.value:
            content = {
                "topology": devices.name,
                "devices": len(devices.devices),
                "memory_bytes": devices.memory_bytes,
                "fits": fits,
                "assumed": notes,
                "programs": [_as_json(each) for each in measured],
            }
            write_whole(epath.Path(_JSON.value), json.dumps(content, indent=2))
    sys.exit(0 if fits else 1)


def _planned() -> tuple[Topology, Config, RunInputs, list[str]]:
    """Returns devices, configuration and inputs, and what they assume."""
    if not _TOPOLOGY.value:
        raise configs.ConfigError(
            f"--topology=NAME: missing. Examples: {topology.EXAMPLES}."
        )
    config = commands_flags.checked_config(COMMAND, files=False)
    if config.init.vl_ltr:
        raise configs.ConfigError(
            f"init.vl_ltr={config.init.vl_ltr!r}: only evaluated, and preflight plans "
            "runs that train. Leave the key out."
        )
    devices = topology.read(_TOPOLOGY.value)
    config = settled(config, None, devices.devices[0].platform)
    configs.check_devices(config, len(devices.devices))
    counts = inputs.Counts(
        classes=_CLASSES.value or 0,
        train=_IMAGES.value or 0,
        sentences=_SENTENCES.value or 0,
    )
    planned, notes = inputs.read(config, counts)
    return devices, config, planned, [*notes, f"in {config.model.compute_dtype}"]


def _stages(config: Config, planned: RunInputs) -> list[str]:
    stages = pipeline.planned(config, planned)
    if unknown := set(_STAGES.value) - set(stages):
        raise configs.ConfigError(
            f"--stages={','.join(sorted(unknown))}: this run has {', '.join(stages)}."
        )
    return [name for name in stages if name in (_STAGES.value or stages)]


def _print_row(cells: Sequence[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def _memory(devices: Topology) -> str:
    return f"{devices.memory_bytes / GIB:.2f} GiB"


def _remarks(measured: Sequence[Measured], devices: Topology) -> Iterator[str]:
    """Yields the compiler's errors, and the changes that each stage needs."""
    for each in measured:
        if each.figures.error:
            yield f"{each.stage}, {each.program}: {each.figures.error}"
    changes = {each.stage: each.changes for each in measured if each.changes}
    for stage, keys in changes.items():
        words = " ".join(f"--config.{key}={value}" for key, value in keys.items())
        yield f"{stage} fits with {words}"
    for stage in {each.stage for each in measured if lacks_memory(each.figures)}:
        yield (
            f"{stage} does not fit into {_memory(devices)} by chunks, model.remat or "
            "mesh.fsdp. Take more devices, a smaller batch size, or mesh.model, which "
            "splits the classes of a head."
        )


def _row(each: Measured) -> tuple[str, ...]:
    figures = each.figures
    sent = None
    if figures.collectives is not None:
        sent = sum(count["output_bytes"] for count in figures.collectives.values())
    return (
        each.stage,
        each.program,
        str(each.accumulation_steps),
        _number(figures.argument_bytes, GIB, 2),
        _number(figures.temporary_bytes, GIB, 2),
        _number(figures.peak_bytes, GIB, 2),
        "yes" if figures.fits else "**no**",
        _number(figures.flops, 1e12, 2),
        _number(figures.bytes_accessed, 1e9, 1),
        _number(sent, 2**20, 0),
        _number(figures.estimated_seconds, 1e-3, 1),
        _number(figures.waiting_seconds, 1e-3, 1),
        _number(figures.utilisation, 0.01, 0, "%"),
        f"{figures.compile_seconds:.0f} s",
    )


def _number(value: float | None, unit: float, digits: int, sign: str = "") -> str:
    return "" if value is None else f"{value / unit:,.{digits}f}{sign}"


def _as_json(each: Measured) -> dict[str, Any]:
    return {
        "stage": each.stage,
        "program": each.program,
        "accumulation_steps": each.accumulation_steps,
        "changes": dict(each.changes),
        **each.figures._asdict(),
    }


def run() -> None:
    """Runs the command in this process."""
    commands_flags.start(main, COMMAND)
