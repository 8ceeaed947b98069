"""Contact sheet of training examples: augmented pictures with their sentences.

python -m vl_ltr_jax.data.show --config=FILE --out=sheet.png [--epoch=0 --draw=0]

An example depends on seed, epoch and draw only, so any example of a run can be shown.
Each has the evaluation picture of the same image next to it. The pictures are those of
pre-training, with random erasing, without mixup and CutMix of fine-tuning.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import UInt8

from vl_ltr_jax.commands import exits
from vl_ltr_jax.commands import flags as commands_flags
from vl_ltr_jax.commands.command import Command
from vl_ltr_jax.config.build import ConfigError
from vl_ltr_jax.config.settings import Config
from vl_ltr_jax.data.batches.examples import TrainExamples
from vl_ltr_jax.data.batches.sampler import BatchSampler
from vl_ltr_jax.data.images import transforms
from vl_ltr_jax.logs import console
from vl_ltr_jax.method import shots
from vl_ltr_jax.report.contact_sheet import (
    SheetExample,
    check_place,
    contact_sheet,
    write,
)
from vl_ltr_jax.run import inputs as run_inputs
from vl_ltr_jax.runtime import mesh as meshes

_OUT = flags.DEFINE_string("out", None, "Picture file to write, for example a.png.")
_EPOCH = flags.DEFINE_integer("epoch", 0, "Epoch of the first example.")
_DRAW = flags.DEFINE_integer("draw", 0, "Draw of the first example in its epoch.")
_COUNT = flags.DEFINE_integer("count", 24, "Number of examples.")
_COLUMNS = flags.DEFINE_integer("columns", 3, "Examples in a row.")
COMMAND = Command(
    "vl_ltr_jax.data.show",
    "Draws training examples as the model sees them, each with the evaluation picture "
    "of the same image and its sentence, and prints their files.",
    (
        (
            "the first examples of the embedded data set",
            "--config=configs/shapes_lt.py --out=sheet.png",
        ),
        (
            "later examples of your own pictures",
            "--config=configs/image_list.py --config.data.root=ROOT "
            "--config.data.name=NAME --out=sheet.png --epoch=3 --draw=512",
        ),
    ),
)

_MAX_EXAMPLES = 1000


def training_examples(
    config: Config, epoch: int, draw: int, count: int
) -> Iterator[SheetExample]:
    """Yields examples of pre-training, from a draw on.

    Args:
      config: configuration of the run.
      epoch: epoch of N draws, from 0.
      draw: draw in that epoch, from 0.
      count: number of examples.

    Raises:
      UserError: the data has a fault, or the epoch has no such draw.
    """
    data = run_inputs.read_data(config)
    if draw >= len(data.train):
        raise ConfigError(
            f"--draw={draw}: an epoch has {len(data.train)} draws, from 0. Set --epoch "
            "for later ones."
        )
    corpus = run_inputs.build_corpus(config, data)
    batch_size, seed = config.pretrain.global_batch_size, config.seed
    sampler = BatchSampler(
        data.train.labels,
        sampling=config.pretrain.sampling,
        batch_size=batch_size,
        seed=seed,
        sentence_labels=corpus.labels,
    )
    transform = run_inputs.train_transform(config)
    examples = TrainExamples(
        data.train, transform, sampler, seed, batch_size, range(batch_size)
    )
    evaluate, erase = run_inputs.eval_transform(config), _erasing(config)
    groups = shots.shot_groups(data.train_counts, "standard")
    first = epoch * len(data.train) + draw
    for position in range(first, first + count):
        step, row = divmod(position, batch_size)
        example = examples.example(step, row)
        index = int(sampler.draw(step).images[row])
        label = int(example["label"])
        group = next(name for name, members in groups.items() if members[label])
        draw_name = "epoch {}, draw {}".format(*examples.epoch_and_draw(step, row))
        yield SheetExample(
            erase(example["image"], step, row),
            evaluate(data.train.read(index)),
            f"{draw_name}: {data.class_names[label]} (label {label}, "
            f"{data.train_counts[label]} images, {group})",
            corpus.sentences[int(example["sentence_id"])],
            data.train.describe(index),
        )


def _erasing(
    config: Config,
) -> Callable[[UInt8[np.ndarray, "H W 3"], int, int], UInt8[np.ndarray, "H W 3"]]:
    """Returns the random erasing of the pre-training step, for pixels as bytes."""
    # A model's own constants would only tint the noise, and may need a download.
    name = config.data.normalization
    constants = transforms.NORMALIZATIONS["clip" if name == "model" else name]
    mean, std = np.array(constants, np.float32)

    @jax.jit
    def erased(pixels: Any, step: Any, row: Any) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(config.seed), step)
        normal = transforms.normalize(pixels[None], constants)
        rows, probability = jnp.array([row]), config.data.erase_probability
        return transforms.random_erase(key, normal, probability, rows)[0]

    def erase(
        pixels: UInt8[np.ndarray, "H W 3"], step: int, row: int
    ) -> UInt8[np.ndarray, "H W 3"]:
        result = np.asarray(erased(pixels, step, row)) * std + mean
        return np.round(result * 255).clip(0, 255).astype(np.uint8)

    return erase


def _checked_flags() -> tuple[Config, Path]:
    """Returns the configuration and the file to write."""
    config = commands_flags.checked_config(COMMAND)
    if not _OUT.value:
        raise ConfigError("--out=FILE.png: missing. Name a picture file.")
    out = Path(_OUT.value)
    check_place(out)
    for flag, low, high in (
        (_EPOCH, 0, 10**6),
        (_DRAW, 0, 2**31),
        (_COUNT, 1, _MAX_EXAMPLES),
        (_COLUMNS, 1, _MAX_EXAMPLES),
    ):
        if not low <= flag.value <= high:
            raise ConfigError(f"--{flag.name}={flag.value}: not from {low} to {high}.")
    return config, out


def main(argv: Sequence[str]) -> None:
    """Writes the sheet."""
    del argv
    with exits.refusing():
        config, out = _checked_flags()
        meshes.devices()
        examples = list(
            training_examples(config, _EPOCH.value, _DRAW.value, _COUNT.value)
        )
        write(contact_sheet(examples, _COLUMNS.value), out)
    lines = [f"{item.caption.split(':')[0]}: {item.where}" for item in examples]
    console.result("\n".join([*lines, str(out)]), str(out))
    console.say(f"data.orientation={config.data.orientation!r}, for all pictures")


def run() -> None:
    """Runs the command in this process."""
    commands_flags.start(main, COMMAND)
