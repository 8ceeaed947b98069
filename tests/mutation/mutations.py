"""Applies the edits that parity tests say would break them, one by one.

    python tests/mutation/mutations.py [WORD ...]

Each edit is made in a copy of the repository, never in place, and the tests named with
it run there; an edit that no test catches is reported and makes the exit code 1. WORDs
choose edits by their description.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
from mutation.edits_commands import ENTRY_EDITS
from mutation.edits_data import DATA_EDITS
from mutation.edits_port import CLIP_EDITS
from mutation.edits_recognizer import RECOGNIZER_EDITS
from mutation.edits_systems import BASELINE_EDITS

ROOT = Path(__file__).parents[2]


class Edit(NamedTuple):
    """One wrong line: what it is, where, before and after, and who should notice."""

    what: str
    file: str
    before: str
    after: str
    tests: str


LAYERS = "vl_ltr_jax/models/layers.py"
RESNET = "vl_ltr_jax/models/resnet.py"
WEIGHTS = "vl_ltr_jax/models/port/names.py"
LGR = "vl_ltr_jax/models/lgr.py"
LOSSES = "vl_ltr_jax/method/losses.py"
SUMS = "vl_ltr_jax/method/pair_sums.py"
CHUNKS = "vl_ltr_jax/train/chunks.py"
MESH = "vl_ltr_jax/runtime/mesh.py"
LAYER_TESTS = "tests/models/test_vit.py::test_every_layer_is_hugging_faces"
TEXT_TESTS = "tests/models/test_text.py"
POSITION_TESTS = (
    "tests/models/test_vit.py::test_positions_are_resized_as_the_authors_do"
)
RESNET_TESTS = "tests/models/test_resnet.py"
PORT_TESTS = "tests/models/port/test_convert.py::test_openais_own_module"
LGR_TESTS = "tests/models/test_lgr.py"
_PAIRS, _LAYOUTS = "tests/method/test_pair_losses.py", "tests/train/test_layouts.py"
_MESH = "tests/runtime/test_mesh.py"
MESH_TESTS = f"{_PAIRS}::test_any_number_of_devices_gives_the_loss_of_one"
KL_TESTS = f"{_PAIRS}::test_every_distillation_is_that_of_one_device"
CHUNK_TESTS = f"{_LAYOUTS}::test_a_finetuning_step_is_the_same_on_any_layout"
LOOKUP_TESTS = f"{_MESH}::test_rows_are_looked_up_in_a_table_that_no_device_holds"

EDITS = (
    Edit(
        "QuickGELU replaced by GELU",
        LAYERS,
        "return x * jax.nn.sigmoid(1.702 * x)",
        "return jax.nn.gelu(x, approximate=False)",
        LAYER_TESTS,
    ),
    Edit(
        "LayerNorm with epsilon 1e-6",
        LAYERS,
        "epsilon=1e-5",
        "epsilon=1e-6",
        "tests/models/test_clip.py::test_authors_forward_and_backward",
    ),
    Edit(
        "attention without 1 / sqrt(d)",
        LAYERS,
        "queries * queries.shape[-1] ** -0.5",
        "queries",
        LAYER_TESTS,
    ),
    Edit(
        "heads interleaved",
        LAYERS,
        "x.reshape(batch, length, heads, width // heads)",
        "x.reshape(batch, length, width // heads, heads).swapaxes(2, 3)",
        LAYER_TESTS,
    ),
    Edit(
        "patches with channels first",
        LAYERS,
        "x.transpose(0, 1, 3, 2, 4, 5)",
        "x.transpose(0, 1, 3, 5, 2, 4)",
        LAYER_TESTS,
    ),
    Edit(
        "causal mask off by one",
        "vl_ltr_jax/models/text.py",
        "jnp.tril(jnp.ones((1, 1, length, length), bool))",
        "jnp.tril(jnp.ones((1, 1, length, length), bool), 1)",
        TEXT_TESTS,
    ),
    Edit(
        "end of text taken for the last position",
        "vl_ltr_jax/models/text.py",
        "ids.argmax(axis=1)",
        "ids.shape[1] - 1",
        TEXT_TESTS,
    ),
    Edit(
        "end of text taken for the token before it",
        "vl_ltr_jax/models/text.py",
        "ids.argmax(axis=1)",
        "ids.argmax(axis=1) - 1",
        TEXT_TESTS,
    ),
    Edit(
        "class token behind the patches",
        "vl_ltr_jax/models/vit.py",
        "jnp.concatenate([token, x], axis=1)",
        "jnp.concatenate([x, token], axis=1)",
        LAYER_TESTS,
    ),
    Edit(
        "no LayerNorm behind the image tower",
        "vl_ltr_jax/models/vit.py",
        'LayerNorm(name="ln_post")(x[:, 0])',
        "x[:, 0]",
        LAYER_TESTS,
    ),
    Edit(
        "positions interpolated with a = -0.5",
        "vl_ltr_jax/models/port/positions.py",
        "    a = -0.75",
        "    a = -0.5",
        POSITION_TESTS,
    ),
    Edit(
        "positions interpolated without half-pixel centres",
        "vl_ltr_jax/models/port/positions.py",
        "(np.arange(new) + 0.5) * old / new - 0.5",
        "np.arange(new) * old / new",
        POSITION_TESTS,
    ),
    Edit(
        "positions interpolated linearly",
        "vl_ltr_jax/models/port/positions.py",
        "np.where(distance <= 1, inner, outer)",
        "np.maximum(1 - distance, 0)",
        POSITION_TESTS,
    ),
    Edit(
        "BatchNorm with a biased running variance",
        RESNET,
        "unbiased = var * (count / max(count - 1, 1))",
        "unbiased = var",
        RESNET_TESTS,
    ),
    Edit(
        "BatchNorm with momentum 0.9",
        RESNET,
        "_MOMENTUM = 0.1",
        "_MOMENTUM = 0.9",
        RESNET_TESTS,
    ),
    Edit(
        "BatchNorm normalised by the running statistics in training",
        RESNET,
        "mean, var = wide.mean((0, 1, 2)), wide.var((0, 1, 2))",
        "mean, var = running_mean.value, running_var.value",
        RESNET_TESTS,
    ),
    Edit(
        "attention pooling without the mean among the keys",
        RESNET,
        'project(width, name="k_proj")(x),\n'
        '            project(width, name="v_proj")(x),',
        'project(width, name="k_proj")(x[:, 1:]),\n'
        '            project(width, name="v_proj")(x[:, 1:]),',
        RESNET_TESTS,
    ),
    Edit(
        "anti-aliasing behind the last convolution of a bottleneck",
        RESNET,
        "x, y = _halve(x), _halve(y)\n"
        '        y = conv(4 * self.features, name="conv3")(y)',
        'x, y = _halve(x), conv(4 * self.features, name="conv3")(y)\n'
        "            y = _halve(nn.relu(y))\n"
        "        else:\n"
        '            y = conv(4 * self.features, name="conv3")(y)',
        "tests/models/test_clip.py::test_authors_forward_and_backward",
    ),
    Edit(
        "query, key and value in another order",
        WEIGHTS,
        '"qkv".index',
        '"kqv".index',
        PORT_TESTS,
    ),
    Edit(
        "OpenAI's bare projections transposed",
        WEIGHTS,
        ' and name.endswith("weight")',
        "",
        PORT_TESTS,
    ),
    Edit(
        "attention and MLP LayerNorms exchanged",
        WEIGHTS,
        '(r"/ln_(\\d)/", r"/layer_norm\\1/"),',
        '(r"/ln_1/", "/layer_norm2/"),\n    (r"/ln_2/", "/layer_norm1/"),',
        LAYER_TESTS,
    ),
    Edit(
        "the LGR's query and key matrices untransposed",
        WEIGHTS,
        'in ("kernel", "wq", "wk")',
        'in ("kernel",)',
        "tests/models/port/test_convert.py::test_authors_lgr_from_its_state_dict",
    ),
    Edit(
        "the LGR's key matrix untransposed in the fold",
        LGR,
        "query @ wk.T",
        "query @ wk",
        LGR_TESTS,
    ),
    Edit(
        "the LGR's attention without 1 / sqrt(D)",
        LGR,
        " / self.embed_dim**0.5",
        "",
        LGR_TESTS,
    ),
    Edit(
        "the LGR's padding given weight",
        LGR,
        "jnp.where(blocked, jnp.finfo(jnp.float32).min, scores)",
        "scores",
        LGR_TESTS,
    ),
    Edit(
        "the LGR's norm detached in both variants",
        LGR,
        "if self.detach_norm:",
        "if True:",
        LGR_TESTS,
    ),
    Edit(
        "contrastive targets without smoothing",
        LOSSES,
        "targets * (1 - label_smoothing) + label_smoothing / len(labels)",
        "targets",
        "tests/method/test_losses.py",
    ),
    Edit(
        "the teacher's gradient let through",
        LOSSES,
        "jax.lax.stop_gradient(teacher_logits)",
        "teacher_logits",
        "tests/method/test_losses.py",
    ),
    Edit(
        "the logit scale without weight decay",
        "vl_ltr_jax/train/optim.py",
        "leaf.ndim != 1",
        "leaf.ndim > 1",
        "tests/train/test_optim.py tests/train/test_five_steps.py",
    ),
    Edit(
        "sentences scored by the sum of a class's images",
        "vl_ltr_jax/method/anss.py",
        "sums / jnp.maximum(counts, 1)[:, None]",
        "sums",
        "tests/method/test_anss.py",
    ),
    Edit(
        "sentences that see their neighbours in a row",
        "vl_ltr_jax/models/text.py",
        "segments[..., :, None] == segments[..., None, :]",
        "segments[..., :, None] >= 0 * segments[..., None, :]",
        "tests/data/batches/test_packing.py",
    ),
    Edit(
        "a folded query with its mean",
        LGR,
        "return query - jnp.mean(query, axis=-1, keepdims=True)",
        "return query",
        LGR_TESTS,
    ),
    Edit(
        "images scored by the softmax of one device",
        "vl_ltr_jax/method/anss.py",
        "highest + jnp.log(over_images(jnp.exp(parts - highest)))",
        "parts",
        "tests/method/test_anss.py",
    ),
    Edit(
        "centre crop rounded down",
        "vl_ltr_jax/data/images/transforms.py",
        '(margin + 1) // 2 if half == "up"',
        'margin // 2 if half == "up"',
        "tests/data/images/test_transforms.py",
    ),
    Edit(
        "columns that keep the maxima of one device",
        SUMS,
        "jax.lax.pmax(stacked, options.axes)",
        "stacked",
        MESH_TESTS,
    ),
    Edit(
        "columns of the first device on every device",
        SUMS,
        "own = sums.shape[1] * jax.lax.axis_index(options.axes)",
        "own = 0 * jax.lax.axis_index(options.axes)",
        MESH_TESTS,
    ),
    Edit(
        "positives counted on one device only",
        SUMS,
        "ordered = jnp.sort(_gather(options, labels))",
        "ordered = jnp.sort(labels)",
        MESH_TESTS,
    ),
    Edit(
        "the gradient of 'kl' without its sign and temperature",
        SUMS,
        "gradient += options.slope * to.dot * probability",
        "gradient += to.dot * probability",
        KL_TESTS,
    ),
    Edit(
        "chunks joined one after the other",
        CHUNKS,
        "leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:])",
        "leaf.reshape(-1, *leaf.shape[2:])",
        CHUNK_TESTS,
    ),
    Edit(
        "every device answers for the first rows of a table",
        MESH,
        "rows = rows - len(table) * jax.lax.axis_index(ROWS)",
        "rows = rows + 0 * jax.lax.axis_index(ROWS)",
        LOOKUP_TESTS,
    ),
    Edit(
        "sentences of an overlapping block counted twice",
        "vl_ltr_jax/evaluate/scores.py",
        "(labels >= 0) & (start + jnp.arange(block_size) >= first)",
        "labels >= 0",
        "tests/evaluate/test_accuracy.py",
    ),
    *(Edit(*e) for e in (*CLIP_EDITS, *DATA_EDITS, *BASELINE_EDITS)),
    *(Edit(*e) for e in (*RECOGNIZER_EDITS, *ENTRY_EDITS)),
)


def survives(edit: Edit) -> bool:
    """Whether the tests pass although the edit was made."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".*", "runs", "*.egg-info")
        )
        path = copy / edit.file
        source = path.read_text()
        if source.count(edit.before) != 1:
            raise ValueError(f"{edit.what}: {edit.before!r} is not once in {path}")
        path.write_text(source.replace(edit.before, edit.after))
        run = subprocess.run(
            # The copy in front, so that an installed package is not taken instead.
            [sys.executable, "-m", "pytest", "-q", "-x", "-n0", *edit.tests.split()],
            cwd=copy,
            env={"PYTHONPATH": str(copy), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
        if run.returncode not in (0, 1):
            raise RuntimeError(f"{edit.what}: the tests did not run\n{run.stdout}")
        return run.returncode == 0


def main(words: list[str]) -> int:
    """Tries the edits that bear a word, or all."""
    left = 0
    for edit in EDITS:
        if words and not any(word in edit.what for word in words):
            continue
        alive = survives(edit)
        left += alive
        print(f"{'NOT CAUGHT' if alive else 'caught':10} {edit.what}", flush=True)
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
