"""Trained models leave a workdir for PyTorch.

    python -m vl_ltr_jax.export WORKDIR DEST --to hf|openai|vl_ltr

`hf` and `openai` write both towers, the image tower as fine-tuned where it was;
`vl_ltr` writes the LGR as the state dict of the authors' model. DEST must not exist
yet, and appears whole or not at all.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from vl_ltr_jax import terminal
from vl_ltr_jax.artifacts import Artifact, ArtifactError
from vl_ltr_jax.checkpoint import load_params
from vl_ltr_jax.inputs import model_source
from vl_ltr_jax.models import clip_files, port, vl_ltr
from vl_ltr_jax.models.clip import PRESETS

_HELP = """\
Writes the model that a run has trained for PyTorch: both towers, the image tower as
fine-tuned where it was, or the whole recogniser."""
_EXAMPLES = """\
examples:
  # for transformers.CLIPModel.from_pretrained("shapes_clip")
  python -m vl_ltr_jax.export runs/shapes_lt shapes_clip --to hf

  # for the authors' code
  python -m vl_ltr_jax.export runs/shapes_lt shapes_lgr --to vl_ltr"""


def export(workdir: epath.Path, destination: Path, *, to: str) -> Path:
    """Writes the model of a finished run.

    Args:
      workdir: of a run with pre-training, or that started from `init.clip`.
      destination: a directory that does not exist, or is empty.
      to: `hf`, `openai` or `vl_ltr`.

    Returns:
      The destination.

    Raises:
      ArtifactError: if the run has not come so far.
      ValueError: (a subclass) if a file is broken or the model has no such form.
    """
    config = _read_config(workdir)
    size = config["model"]["image_size"]
    sizes = PRESETS[config["model"]["backbone"]].at_image_size(size)
    clip, tokenizer = config["init"]["clip"], config["init"]["tokenizer"]
    text_files = model_source(tokenizer or clip)
    if config["pretrain"]["epochs"]:
        towers = load_params(_finished(workdir, "pretrain") / "checkpoints")
    else:
        towers = clip_files.load_clip(model_source(clip), image_size=size)[1]
    tuned: dict[str, Any] = {}
    if config["finetune"]["epochs"]:
        directory = _finished(workdir, "finetune") / "checkpoints"
        tuned = load_params(directory)["params"]
    if "visual" in tuned:
        params = {**towers["params"], "visual": tuned["visual"]}
        towers = {**towers, "params": params}

    def write(directory: Path) -> None:
        if to != "vl_ltr":
            port.write_clip(
                directory, sizes, towers, to=to, dtype="float32", beside=text_files
            )
            return
        if "wq" not in tuned.get("head", {}):
            raise ArtifactError(
                f"{workdir} has no language-guided head: finetune.epochs="
                f"{config['finetune']['epochs']}, finetune.head="
                f"{config['finetune']['head']!r}"
            )
        padding = _array(workdir, "anchors", "padding")
        sentences = _array(workdir, "embed", "sentences")
        anchors = sentences[_array(workdir, "anchors", "indices")]
        anchors = np.where(padding[..., None], 0, anchors).astype(np.float32)
        recognizer = vl_ltr.Recognizer(tuned["head"], anchors, padding)
        released = vl_ltr.Released(
            sizes.vision, sizes.embed_dim, towers, recognizer=recognizer
        )
        port.write_lgr(directory, released, "float32")

    return port.write_whole(destination, write)


def _read_config(workdir: epath.Path) -> dict[str, Any]:
    path = workdir / "config.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} cannot be read ({error}); is {workdir} the --workdir of a run?"
        ) from error


def _finished(workdir: epath.Path, stage: str) -> epath.Path:
    artifact = Artifact(workdir / stage, {})
    if not artifact.finished:
        raise ArtifactError(
            f"stage {stage!r} in {workdir} is not finished; the command that started "
            "the run goes on with it"
        )
    return artifact.directory


def _array(workdir: epath.Path, stage: str, name: str) -> np.ndarray:
    return Artifact(_finished(workdir, stage), {}).load_array(name)


def main(arguments: Sequence[str]) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vl_ltr_jax.export",
        description=_HELP,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "workdir", type=epath.Path, metavar="WORKDIR", help="of a finished run"
    )
    parser.add_argument(
        "destination",
        type=Path,
        metavar="DEST",
        help="a new directory, which appears whole or not at all",
    )
    parser.add_argument(
        "--to",
        choices=port.FAMILIES,
        required=True,
        help="hf: transformers.CLIPModel; openai: OpenAI's CLIP; vl_ltr: the authors' "
        "LGR, head and anchors included",
    )
    given = parser.parse_args(arguments)
    try:
        made = export(given.workdir, given.destination, to=given.to)
    except (ValueError, OSError) as error:
        terminal.error(str(error))
        sys.exit(2)
    print(f"{made}: {', '.join(sorted(file.name for file in made.iterdir()))}")


if __name__ == "__main__":
    main(sys.argv[1:])
