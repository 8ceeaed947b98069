"""Export of trained models to other forms.

    python -m vl_ltr_jax.export --workdir=DIR --to=FORM [--out=DEST]

- `stablehlo`: the recognizer as a program for JAX, with its arrays next to it.
- `npz`: all arrays in one NumPy file.
- `hf`: both towers for `transformers.CLIPModel`, and the run's pixels for
  `CLIPProcessor`. The image tower is the fine-tuned one. At a half pixel the crop may
  differ by one; with torchvision, the resize differs by a level in 1 % of the pixels.
- `openai`: both towers for open_clip.
- `vl_ltr`: the LGR as the state dict of the authors' model.

DEST, by default DIR/export/FORM, is a new directory. It appears whole or not at all.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from etils import epath

from vl_ltr_jax.commands import exits, process
from vl_ltr_jax.commands.command import Command, parse
from vl_ltr_jax.data.images import transforms
from vl_ltr_jax.logs import messages
from vl_ltr_jax.models.port import convert, listing, vl_ltr_files
from vl_ltr_jax.models.port.preprocessing import Preprocessing
from vl_ltr_jax.recognizer import files, load, stablehlo
from vl_ltr_jax.run.saved import SavedRun
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.runtime.errors import UserError
from vl_ltr_jax.storage import atomic

Write: TypeAlias = Callable[[Path], None]
FORMS = ("stablehlo", *listing.FAMILIES, "npz")
COMMAND = Command(
    "vl_ltr_jax.export",
    "Writes the model of a finished run in another form: as a program, as arrays, or "
    "under the names of PyTorch models.",
    (
        (
            "a program that needs only JAX, under runs/shapes_lt/export/stablehlo",
            "--workdir=runs/shapes_lt --to=stablehlo",
        ),
        (
            'transformers.CLIPModel.from_pretrained("shapes_clip")',
            "--workdir=runs/shapes_lt --to=hf --out=shapes_clip",
        ),
    ),
)
_FORM_HELP = (
    "stablehlo: a program for JAX, for any number of pictures; npz: all arrays; hf: "
    "transformers.CLIPModel and CLIPProcessor; openai: OpenAI's CLIP; vl_ltr: the "
    "authors' LGR"
)


class ExportError(UserError):
    """The model has no such form, or the destination is unusable."""


def export(workdir: epath.Path, destination: Path, *, to: str) -> Path:
    """Writes the model of a finished run.

    Args:
      workdir: directory of a run, or of a saved recognizer.
      destination: a new or empty directory.
      to: one of `FORMS`.

    Returns:
      The destination.

    Raises:
      ArtifactError: if the run has not come so far, or a program does not give what
        the model gives.
      ExportError: if the model has no such form.
      UserError: a file is broken.
    """
    atomic.check_free(destination)
    if to in ("hf", "openai"):
        write = _towers_as(workdir, to)
    elif to == "vl_ltr":
        write = _lgr(workdir)
    else:
        recognizer = load.load(workdir)
        form = {"stablehlo": stablehlo.write_program, "npz": stablehlo.write_arrays}[to]

        def write(directory: Path) -> None:
            form(directory, recognizer)

    return atomic.write_directory(destination, write)


def _towers_as(workdir: epath.Path, to: str) -> Write:
    """The towers; a run need not have come further than these."""
    if (workdir / files.CARD).exists():
        recognizer = load.load(workdir)
        card, towers = recognizer.card, recognizer.arrays["towers"]
        sizes, source = card.clip_config, recognizer.tokenizer_directory
        preprocessing = _preprocessing(
            card.image_size, card.eval_recipe, card.normalization
        )
    else:
        run = SavedRun(workdir)
        sizes, towers, source = run.clip_config(), run.towers(), run.tokenizer_directory
        preprocessing = _preprocessing(
            run.config.model.image_size,
            run.config.data.eval_recipe,
            run.model_facts()["normalization"],
        )
    if "text" not in towers["params"]:
        raise ExportError(
            f"{workdir} has no text tower, since it came from an LGR checkpoint: "
            "--to=stablehlo and --to=vl_ltr fit it"
        )
    beside = source()
    if not beside.exists():
        raise ExportError(
            f"{beside}: not there any more, and {workdir} has its tokenizer's files "
            "from there. Put it back, or start the command of the run again with its "
            "new place as init.clip or init.tokenizer"
        )

    def write(directory: Path) -> None:
        convert.write_clip(
            directory,
            sizes,
            towers,
            to=to,
            dtype="float32",
            tokenizer=beside,
            preprocessing=preprocessing,
        )

    return write


def _preprocessing(
    image_size: int, recipe: str, normalization: transforms.Constants
) -> Preprocessing:
    """From a picture to the pixels that evaluation sees."""
    share, _ = transforms.EVAL_RECIPES[recipe]
    return Preprocessing(image_size, int(share * image_size), normalization)


def _lgr(workdir: epath.Path) -> Write:
    recognizer = load.load(workdir)
    card, arrays = recognizer.card, recognizer.arrays
    if card.head != "lgr":
        raise ExportError(
            f"{workdir} has no language-guided head: it is of method {card.method!r}. "
            "--to=stablehlo fits every head"
        )
    if added := len(card.class_names) - card.num_trained:
        raise ExportError(
            f"{messages.counted(added, 'class', 'classes')} of {workdir} added by "
            "sentences alone, for which the authors' model has no place; "
            "--to=stablehlo has"
        )
    if not np.allclose(
        card.normalization, transforms.NORMALIZATIONS["clip_4digit"], atol=1e-3
    ):
        raise ExportError(
            f"{workdir} normalises pixels by {card.normalization}; the authors' code "
            "does by CLIP's mean and deviation alone. --to=stablehlo keeps its own"
        )
    anchors = arrays["anchors"]
    released = vl_ltr_files.Released(
        card.clip_config.vision,
        card.clip_config.embed_dim,
        arrays["towers"],
        released_head=vl_ltr_files.ReleasedHead(
            arrays["head"], anchors["embeddings"], anchors["padding"]
        ),
    )

    def write(directory: Path) -> None:
        convert.write_lgr(directory, released, "float32")

    return write


@exits.with_codes
def main(arguments: Sequence[str]) -> int:
    """Runs the command line and returns its exit code."""
    parser = COMMAND.parser()
    parser.add_argument(
        "--workdir",
        type=epath.Path,
        required=True,
        help="directory of a finished run, or of a saved recognizer",
    )
    parser.add_argument("--to", choices=FORMS, required=True, help=_FORM_HELP)
    parser.add_argument(
        "--out", type=Path, help="a new directory; by default DIR/export/FORM"
    )
    parsed = parse(parser, arguments)
    meshes.devices()
    destination = parsed.out or _default(parsed.workdir, parsed.to)
    directory = export(parsed.workdir, destination, to=parsed.to)
    print(f"{directory}: {', '.join(sorted(f.name for f in directory.iterdir()))}")
    return 0


def _default(workdir: epath.Path, to: str) -> Path:
    if "://" in os.fspath(workdir):
        raise ExportError(f"--workdir={workdir}: a bucket. Set --out=DIRECTORY.")
    return Path(workdir) / "export" / to


def run() -> None:
    """Runs the command in this process."""
    process.run(main)
