"""A plan on paper: what a training step will need on devices that are not here.

    python -m vl_ltr_jax.benchmarks.plan

Each step is compiled for as many virtual CPU devices as the slice has chips, at full
size and without an array in memory. Memory, operations and collectives are those of the
compiled program; times follow from them by the published rates in `HARDWARE` and an
assumed utilisation. A projection, not a measurement: the CPU's compiler widens bfloat16
to float32, so memory is an upper bound, and nothing is overlapped.
"""

import argparse
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vl_ltr_jax.benchmarks.collectives import collectives
from vl_ltr_jax.commands import exits
from vl_ltr_jax.config import build as configs
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.data.images import transforms
from vl_ltr_jax.method import mixup
from vl_ltr_jax.models.clip import PRESETS, Clip, variable_shapes
from vl_ltr_jax.models.lgr import AnchorConstants, ClassLayout, LanguageGuidedHead
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.train import finetune, optim, pretrain
from vl_ltr_jax.train import state as train_state
from vl_ltr_jax.train.embedder import Embedder

CONFIGS = Path(__file__).parents[2] / "configs"
GIB = 2**30
UTILISATION = 0.4  # of the peak rate, an assumption
SENTENCES = 1_000_000  # rows of the teacher's table


class Hardware(NamedTuple):
    """Published rates of one chip."""

    flops_per_second: float  # bfloat16, dense
    memory_bytes: float
    link_bytes_per_second: float  # one direction, all links of a ring together


HARDWARE = {
    "v5e": Hardware(197e12, 16e9, 100e9),
    "H100": Hardware(989e12, 80e9, 450e9),
}
NUM_CLASSES = {"places_lt": 365, "inat18": 8142}


class Case(NamedTuple):
    """One row of the plan."""

    configuration: str
    stage: str
    chip: str
    chips: int
    global_batch_size: int
    accumulation_steps: int
    model: int = 1  # chips that classes are split over
    fsdp: str = "none"


CASES = (
    *(
        Case(name, "pretrain", *sizes)
        for name in NUM_CLASSES
        for sizes in (
            ("v5e", 8, 1024, 4),
            ("v5e", 256, 1024, 1),
            ("v5e", 256, 8192, 2),
            ("H100", 8, 1024, 2),
        )
    ),
    *(
        Case("places_lt", "finetune", *sizes)
        for sizes in (("v5e", 8, 1024, 1), ("v5e", 256, 1024, 1), ("H100", 8, 1024, 1))
    ),
    *(
        Case("inat18", "finetune", *sizes)
        for sizes in (
            ("v5e", 8, 1024, 4, 8),
            ("v5e", 256, 1024, 1, 8),
            ("H100", 8, 1024, 1, 8),
        )
    ),
)


def configuration(name: str) -> Config:
    """A file of `configs/`, in bfloat16, its data directory left open.

    Raises:
      ConfigError: if there is no such file: the package is not in a checkout.
    """
    path = CONFIGS / f"{name}.py"
    if not path.is_file():
        raise configs.ConfigError(
            f"no configuration {path}: the plan reads those of a checkout; install it "
            "with pip install -e . and run the plan from there"
        )
    config_dict = runpy.run_path(str(path))["get_config"]()
    config_dict.data.root = "."
    config_dict.model.compute_dtype = "bfloat16"
    return configs.from_config_dict(config_dict)


def lower(case: Case, accumulation_steps: int) -> Any:
    """Compiles the step of a case for the devices of this process."""
    config = configuration(case.configuration)
    mesh = meshes.make_mesh(-1, case.model)
    clip_config = PRESETS[config.model.backbone].at_image_size(config.model.image_size)
    model = Clip(clip_config, jnp.dtype(config.model.compute_dtype))
    variables = variable_shapes(clip_config)

    def place(tree: Any, axis: str = "none") -> Any:
        shardings = meshes.shard_largest_axis(mesh, tree, axis=axis)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=sharding
            ),
            tree,
            shardings,
        )

    def split(shape: tuple[int, ...], dtype: Any, axes: Any = meshes.ROWS) -> Any:
        sharding = meshes.row_sharding(mesh, axes)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def prepare(key: Any, images: Any, rows: Any) -> Any:
        pixels = transforms.normalize(images)  # any numbers cost the same
        return transforms.random_erase(key, pixels, config.data.erase_probability, rows)

    embedder = Embedder(model, prepare, 0, mesh, accumulation_steps)
    batch_size, size = case.global_batch_size, config.model.image_size
    batch = {
        "image": split((batch_size, size, size, 3), jnp.uint8),
        "label": split((batch_size,), jnp.int32),
    }
    params = dict(variables["params"])
    visual = {"visual": params["visual"], "logit_scale": params["logit_scale"]}
    schedule = optim.cosine_schedule(1e-3, epochs=10, steps_per_epoch=100)
    if case.stage == "pretrain":
        length = config.data.context_length
        batch |= {
            "tokens": split((batch_size, length), jnp.int32),
            "sentence_id": split((batch_size,), jnp.int32),
        }
        rows = -(-SENTENCES // mesh.size) * mesh.size
        frozen: Any = pretrain.Teacher(
            place({"params": visual}, case.fsdp),
            split((rows, clip_config.embed_dim), jnp.float32),
        )
        optimizer = optim.make_optimizer(params, schedule=schedule, weight_decay=0.05)
        step = pretrain.make_step(embedder, optimizer, schedule, config.pretrain)
    else:
        classes, width = NUM_CLASSES[case.configuration], clip_config.embed_dim
        anchors = config.anchors.num_anchors
        layout = ClassLayout.fit(classes, anchors, batch_size, mesh.shape)
        num = (layout.padded,)
        shapes = finetune.PlacedAnchors(
            split((*num, anchors, width), jnp.float32, "model"),
            split((*num, anchors), jnp.bool_, "model"),
            AnchorConstants(
                split((*num, anchors), jnp.float32, "model"),
                split((*num, anchors, anchors), jnp.float32, "model"),
            ),
        )
        head = LanguageGuidedHead(
            *(classes, width, 4.6, config.finetune.detach_norm, model.dtype),
            layout=layout,
        )
        example = jax.ShapeDtypeStruct((1, width), jnp.float32)
        params = {
            "head": jax.eval_shape(
                head.init,
                jax.eval_shape(lambda: jax.random.key(0)),
                example,
                shapes.embeddings,
                shapes.padding,
            )["params"]
        }
        if config.finetune.train_image_tower:
            params["visual"] = visual.pop("visual")
        frozen = finetune.Frozen(place({"params": visual}, case.fsdp), shapes)
        optimizer = optim.make_optimizer(
            params, schedule=schedule, text_schedule=schedule, weight_decay=0.05
        )

        def mix(key: Any, images: Any, labels: Any) -> Any:
            return mixup.mix(key, images, labels, classes)

        step = finetune.make_step(embedder, head, optimizer, {}, mix)
    state = jax.eval_shape(lambda p: train_state.create(p, optimizer), params)
    shardings = meshes.shard_largest_axis(mesh, state, axis=case.fsdp)
    return (
        jax.jit(
            step,
            donate_argnums=1,
            out_shardings=(shardings, meshes.replicated(mesh)),
        )
        .lower(frozen, place(state, case.fsdp), batch)
        .compile()
    )


def measure(case: Case) -> dict[str, float]:
    """Numbers of one device, from the compiled step."""
    program = lower(case, 1)
    # A loop's body is counted once, so operations are those of the undivided batch.
    counted = collectives(program.as_text())
    flops = program.cost_analysis()["flops"]
    chunked = program
    if case.accumulation_steps > 1:
        chunked = lower(case, case.accumulation_steps)
        counted = collectives(chunked.as_text())
    memory = chunked.memory_analysis()
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "flops": flops,
        "output_bytes": sum(c.output_bytes for c in counted.values()),
        "wire_bytes": sum(c.wire_bytes for c in counted.values()),
    }


def row(case: Case, costs: dict[str, float]) -> str:
    """One line of the table."""
    chip = HARDWARE[case.chip]
    compute_seconds = costs["flops"] / (chip.flops_per_second * UTILISATION)
    # Embedding again, chunk by chunk, adds a forward pass to the three of a step.
    if case.accumulation_steps > 1:
        compute_seconds *= 4 / 3
    wire_seconds = costs["wire_bytes"] / chip.link_bytes_per_second
    seconds = compute_seconds + wire_seconds
    held = costs["argument_bytes"] + costs["temporary_bytes"]
    cells = (
        case.configuration,
        case.stage,
        f"{case.chip} x {case.chips}",
        f"{case.global_batch_size:,}",
        str(case.accumulation_steps),
        str(case.model),
        f"{costs['argument_bytes'] / GIB:.1f} + {costs['temporary_bytes'] / GIB:.1f}"
        + ("" if held < chip.memory_bytes else " (!)"),
        f"{costs['output_bytes'] / 2**20:,.0f}",
        f"{costs['flops'] / 1e12:.2f}",
        f"{case.global_batch_size / seconds:,.0f}",
        f"{compute_seconds / seconds:.0%}",
    )
    return "| " + " | ".join(cells) + " |"


HEADER = (
    "| configuration | stage | chips | global batch | chunks | `mesh.model` "
    "| GiB a chip: state + temporary | MiB of collectives | TFLOP a chip "
    "| images/s | share of time computing |"
)


def main() -> None:
    """Prints the table, a process for each row: devices are counted at the start."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--case", type=json.loads, help="measures one row, for the devices there are"
    )
    if case := parser.parse_args().case:
        print(json.dumps(measure(Case(*case))))
        return
    print(HEADER)
    print("|" + "---|" * HEADER.count(" | ") + "---|")
    for case in CASES:
        flags = (
            f"--xla_force_host_platform_device_count={case.chips}"
            " --xla_backend_optimization_level=0"  # nothing runs
        )
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        program = [sys.executable, "-m", "vl_ltr_jax.benchmarks.plan"]
        command = [*program, f"--case={json.dumps(case)}"]
        output = subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True
        ).stdout
        print(row(case, json.loads(output.splitlines()[-1])), flush=True)


if __name__ == "__main__":
    with exits.refusing():
        main()
