"""Models, losses, AnSS and LGR on the device, beside the authors' golden arrays.

The arrays are files of a checkout. A float32 limit is 1e-5 of the largest magnitude for
a layer, and 1e-4 for gradients, end to end.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vl_ltr_jax.method import anss, losses
from vl_ltr_jax.models import lgr
from vl_ltr_jax.models.attention import Target, attend, target_of
from vl_ltr_jax.models.clip import Clip, variable_shapes
from vl_ltr_jax.models.port import sizes
from vl_ltr_jax.models.port.names import OPENAI, VL_LTR, from_tensors, to_tensors
from vl_ltr_jax.models.port.tensor_files import read_tensors
from vl_ltr_jax.runtime import mesh as meshes

LAYER, END_TO_END, BFLOAT16 = 1e-5, 1e-4, 0.05
_SMALLEST = 1e-2  # magnitude; below it, errors are absolute
# Row, limit, ours, and the authors'.
Pairs = Iterator[tuple[str, float, Any, Any]]


class Row(NamedTuple):
    """A row of the table.

    Attributes:
      check: in words.
      figure: measured, in words.
      limit: of the figure, or what to compare it with.
      ok: None if there is nothing to hold.
      values: the figures as numbers.
    """

    check: str
    figure: str
    limit: str = ""
    ok: bool | None = None
    values: Mapping[str, float | None] = {}


def rows(golden: Path) -> Iterator[Row]:
    """Yields the largest relative errors; golden arrays lie in a directory."""
    with jax.default_matmul_precision("highest"):
        for pairs in (
            _towers(golden / "clip_tiny", "vit"),
            _towers(golden / "clip_tiny", "rn"),
            _losses(golden / "losses"),
            _anss(golden / "anss"),
            _lgr(golden / "lgr"),
            _attention(),
        ):
            errors: dict[tuple[str, float], float] = {}
            for check, limit, ours, expected in pairs:
                error = relative_error(ours, expected)
                errors[check, limit] = max(errors.get((check, limit), 0.0), error)
            for (check, limit), error in errors.items():
                values = {"relative_error": error if math.isfinite(error) else None}
                yield Row(check, f"{error:.1e}", f"{limit:g}", error <= limit, values)


def relative_error(ours: Any, expected: Any) -> float:
    """Returns the largest difference over the largest magnitude.

    It is infinite for another shape, and for NaN or infinity where none is expected.
    """
    ours, expected = (np.asarray(array, np.float64) for array in (ours, expected))
    if ours.shape != expected.shape:
        return math.inf
    finite = np.isfinite(expected)
    if not np.array_equal(ours[~finite], expected[~finite]):
        return math.inf
    ours, expected = ours[finite], expected[finite]
    if not np.isfinite(ours).all():
        return math.inf
    scale = np.abs(expected).max(initial=_SMALLEST)
    return float(np.abs(ours - expected).max(initial=0.0) / scale)


def _towers(folder: Path, name: str) -> Pairs:
    """Yields features, logits, losses and gradients' norms of both tiny towers."""
    description = json.loads((folder / f"{name}.json").read_text())
    golden = dict(np.load(folder / f"{name}.npz"))
    state = read_tensors(folder / f"{name}.safetensors")
    shapes = {key: tensor.shape for key, tensor in state.items()}
    heads = description["config"]["transformer_heads"]
    details = sizes.Details(head_width=64, text_heads=heads)
    config = sizes.from_shapes(shapes, name, details)
    variables = from_tensors(state, variable_shapes(config), OPENAI, name)
    images = jnp.asarray(golden["images"].transpose(0, 2, 3, 1))
    batch = images, jnp.asarray(golden["tokens"], jnp.int32)
    target = _target()
    model = Clip(config, target=target)
    features = ("image_features", "text_features")

    def loss(params: Any, train: bool) -> tuple[jax.Array, Any]:
        changed = {**variables, "params": params}
        outputs: Any = model.apply(
            changed, *batch, train=train, mutable=["batch_stats"]
        )
        image, text = outputs[0]
        logits = losses.contrastive_logits(image, text, params["logit_scale"])
        teacher = jnp.asarray(golden["teacher_logits_per_image"])
        distilled, _ = losses.distillation(logits, teacher)
        labels = jnp.asarray(golden["labels"])
        contrastive, _ = losses.classwise_contrastive(logits, labels)
        outputs = {features[0]: image, features[1]: text, "logits_per_image": logits}
        return (contrastive + distilled) / 2, outputs

    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    for mode in ("eval", "train"):
        (total, outputs), gradients = gradient(variables["params"], mode == "train")
        for key, value in {**outputs, "loss": total}.items():
            yield (
                f"tiny {name}, features and loss",
                LAYER,
                value,
                golden[f"{mode}/{key}"],
            )
        tensors = to_tensors({"params": gradients}, OPENAI)
        order = description["grad_norm_order"]
        norms = np.array([np.linalg.norm(tensors[key]) for key in order])
        expected = golden[f"{mode}/grad_norms"]
        scale = expected + _SMALLEST  # each norm has its own magnitude
        yield (
            f"tiny {name}, gradient norms",
            END_TO_END,
            norms / scale,
            expected / scale,
        )
    coarse = jax.jit(Clip(config, jnp.bfloat16, target=target).apply)
    for key, ours in zip(features, coarse(variables, *batch), strict=True):
        yield (
            f"tiny {name}, features in bfloat16",
            BFLOAT16,
            ours,
            golden[f"eval/{key}"],
        )


def _attention() -> Pairs:
    """Yields the attention of TPUs and GPUs beside the plain form in float32."""
    target = _target()
    if target.is_cpu:
        return
    rng = np.random.default_rng(0)
    arrays = [rng.normal(0, 1, (16, 197, 768)) for _ in range(4)]
    causal = jnp.tril(jnp.ones((1, 1, 197, 197), bool))

    def results(dtype: Any, visible: Any, target: Target) -> list[Any]:
        *inputs, direction = (jnp.asarray(array, dtype) for array in arrays)
        mixed, pull = jax.vjp(
            lambda q, k, v: attend(q, k, v, 12, visible, target), *inputs
        )
        return [mixed, *pull(direction)]

    for visible in (None, causal):
        exact = results(jnp.float32, visible, Target("cpu"))
        ours = results(jnp.bfloat16, visible, target)
        for actual, expected in zip(ours, exact, strict=True):
            yield "attention in bfloat16", BFLOAT16, actual, expected


def _target() -> Target:
    return target_of(meshes.make_mesh(devices=jax.devices()[:1]))


def _losses(folder: Path) -> Pairs:
    """Yields the losses of pre-training in all settings, and their gradients."""
    cases = json.loads((folder / "cases.json").read_text())
    golden = np.load(folder / "losses.npz")
    settings = {setting["name"]: setting for setting in cases["settings"]}
    inputs = ("img_feat", "txt_feat", "logit_scale")

    def total(setting: dict[str, Any], arrays: Any, *features: Any) -> jax.Array:
        logits = losses.contrastive_logits(*features)
        labels = arrays["labels"].astype(jnp.int32)
        loss, _ = losses.classwise_contrastive(
            logits, labels, label_smoothing=setting["smoothing"]
        )
        if weight := setting["beta"]:
            distilled, _ = losses.distillation(
                logits,
                arrays["teacher_logits_per_image"],
                form="kl" if setting["distill_type"] == "logits_kl" else "full",
                temperature=setting["tau"],
            )
            loss = (1 - weight) * loss + weight * distilled
        return loss

    @jax.jit  # one program for all settings: compiling takes longest
    def in_all_settings(arrays: Any) -> dict[str, Any]:
        gradient = jax.value_and_grad(total, argnums=(2, 3, 4))
        features = [arrays[name] for name in inputs]
        return {
            name: gradient(setting, arrays, *features)
            for name, setting in settings.items()
        }

    for case in (entry["case"] for entry in cases["cases"]):
        names = (*inputs, "labels", "teacher_logits_per_image")
        arrays = {name: jnp.asarray(golden[f"{case}/{name}"]) for name in names}
        for name, (value, gradients) in in_all_settings(arrays).items():
            prefix = f"{case}/{name}"
            yield "losses, values", LAYER, value, golden[f"{prefix}/total"]
            for key, ours in zip(inputs, gradients, strict=True):
                expected = golden[f"{prefix}/grad_{key}"]
                yield "losses, gradients", END_TO_END, ours, expected


def _anss(folder: Path) -> Pairs:
    """Yields scores of sentences, and the sentences chosen."""
    names = ("text_embeddings", "text_targets", "image_embeddings", "image_targets")
    for case in ("basic", "missing_class"):
        golden = np.load(folder / f"{case}.npz")
        arrays = [golden[name] for name in (*names, "logit_scale")]
        scores = np.asarray(anss.score_sentences(*arrays))
        # A class without images has infinite scores; the authors' are NaN.
        expected = np.nan_to_num(golden["sentence_ce"], nan=np.inf)
        yield "AnSS, scores", LAYER, scores, expected
        counts = golden["sentence_counts"]
        indices, padding = anss.select_anchors(
            scores, golden["text_targets"], len(counts), int(golden["M"])
        )
        starts = np.cumsum(counts) - counts
        chosen = np.where(padding, -1, indices - starts[:, None])
        yield "AnSS, anchors", 0.0, chosen, golden["selected_indices"]


def _lgr(folder: Path) -> Pairs:
    """Yields logits, losses and gradients of the head, with both kinds of norm."""

    def loss(
        head: lgr.LanguageGuidedHead, targets: jax.Array, params: Any, *arrays: Any
    ) -> tuple[jax.Array, Any]:
        logits: Any = head.apply({"params": params}, *arrays)
        visual, language = (losses.cross_entropy(x, targets) for x in logits)
        return visual + language, logits

    gradient = jax.value_and_grad(loss, argnums=(2, 3, 4), has_aux=True)
    names, prefix = ("image_features", "text_embeddings"), "params/two_branch/"
    for case in ("basic", "short"):
        golden = dict(np.load(folder / f"{case}.npz"))
        tensors = {
            name.replace(prefix, "text_block."): golden[name]
            for name in golden
            if name.startswith(prefix)
        }
        classes, _, width = golden["text_embeddings"].shape
        shapes = {"params": {"head": lgr.head_shapes(classes, width)}}
        params = from_tensors(tensors, shapes, VL_LTR, case)["params"]["head"]
        labels = jnp.asarray(golden["labels"], jnp.int32)
        targets = losses.one_hot_smooth(labels, classes, 0.0)
        arrays = [jnp.asarray(golden[name]) for name in (*names, "padding_mask")]
        for variant in ("two_branch", "two_branch_v_detach"):
            head = lgr.LanguageGuidedHead(
                classes,
                width,
                float(golden["logit_scale"]),
                detach_norm=variant != "two_branch",
            )
            compiled = jax.jit(gradient, static_argnums=0)
            (total, logits), slopes = compiled(head, targets, params, *arrays)
            outputs = {"loss": total, "logits0": logits[0], "logits1": logits[1]}
            for name, ours in outputs.items():
                yield "LGR, logits and loss", LAYER, ours, golden[f"{variant}/{name}"]
            gradients = to_tensors({"params": {"head": slopes[0]}}, VL_LTR)
            gradients |= dict(zip(names, map(np.asarray, slopes[1:]), strict=True))
            for name, ours in gradients.items():
                expected = golden[f"{variant}/grad/{name.removeprefix('text_block.')}"]
                yield "LGR, gradients", END_TO_END, ours, expected
