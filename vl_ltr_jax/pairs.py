"""The losses of pre-training over the mesh: all image-text pairs of the global batch.

The losses of :mod:`vl_ltr_jax.losses` need of the B x B logits only a few sums over
each row and each column. Texts are gathered, each device computes its own rows of
logits once, finishes rows alone and columns with a maximum and a sum over the mesh;
in the backward pass the gradient of the texts is scattered while it is summed.

Two forms, equal up to rounding: `rows` keeps the [b, B] logits for the backward pass;
`streaming` gathers a block of texts at a time and computes its logits again.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from vl_ltr_jax.losses import DISTILLATION_FORMS, REDUCTIONS, mean_or_sum, unit

FORMS = ("auto", "rows", "streaming")
# `auto` streams once a device's rows hold more logits than this (128 MiB).
MAX_ROW_LOGITS = 2**25
STREAMING_COLUMNS = 1024  # texts in one block of the streaming form


class Embedded(NamedTuple):
    """What one CLIP makes of the global batch.

    Attributes:
      image: image embeddings of any length.
      text: embeddings of the sentences drawn for them, of any length.
      logit_scale: logarithm of the inverse temperature.
    """

    image: Float[Array, "B D"]
    text: Float[Array, "B D"]
    logit_scale: Float[Array, ""]


class _Side(NamedTuple):
    """Sums over each row, or each column, of the logits S, and R of the teacher.

    What no loss needs is None.

    Attributes:
      lse: logsumexp of S.
      tempered: logsumexp of S / temperature.
      teacher: logsumexp of R / temperature.
      dot: mean, under the softmax of R / temperature, of `_Options.mixed` logits.
    """

    lse: Any
    tempered: Any = None
    teacher: Any = None
    dot: Any = None


class _Sums(NamedTuple):
    """Sums over rows and columns, and sum_j target_ij S_ij of each row i."""

    rows: _Side
    columns: _Side
    target: Any


@dataclasses.dataclass(frozen=True)
class _Options:
    """What is fixed when the step is traced."""

    mesh: Mesh
    label_smoothing: float
    distillation: str
    temperature: float
    num_blocks: int  # 0: the form `rows`

    @property
    def axes(self) -> tuple[str, ...]:
        return self.mesh.axis_names

    @property
    def slope(self) -> float:
        """The derivative of the logits averaged under the teacher's softmax by S."""
        return -1 / self.temperature if self.distillation == "kl" else 1.0


def pretraining_losses(
    student: Embedded,
    teacher: Embedded | None,
    labels: Int[Array, " B"],
    mesh: Mesh,
    *,
    label_smoothing: float = 0.1,
    contrastive_reduction: str = "mean",
    distillation: str = "full",
    temperature: float = 1.0,
    form: str = "auto",
) -> tuple[dict[str, Float[Array, ""]], Int[Array, " B"]]:
    """L_ccl and L_dis of the paper over a batch sharded over all axes of the mesh.

    Args:
      student: of the towers in training; gradients reach these only.
      teacher: of the frozen CLIP, or None without distillation.
      labels: class of each image, and so of its sentence.
      mesh: the devices; B is a multiple of their number.
      label_smoothing: see :func:`losses.classwise_contrastive`.
      contrastive_reduction: 'mean' or 'sum', of both directions.
      distillation: 'full', 'diagonal' or 'kl', see :func:`losses.distillation`.
      temperature: of 'kl'.
      form: 'rows', 'streaming', or 'auto': by the size of a device's rows.

    Returns:
      `contrastive` and `distillation` with their terms `.../image` and `.../text`, and
      the class of the text nearest to each image.

    Raises:
      ValueError: an unknown form or reduction, or a batch the mesh does not divide.
    """
    if form not in FORMS:
        raise ValueError(f"form {form!r}: not in {FORMS}")
    if distillation not in DISTILLATION_FORMS:
        raise ValueError(f"distillation {distillation!r}: not in {DISTILLATION_FORMS}")
    if contrastive_reduction not in REDUCTIONS:
        raise ValueError(f"reduction {contrastive_reduction!r}: not in {REDUCTIONS}")
    batch_size, devices = len(labels), mesh.size
    if batch_size % devices:
        raise ValueError(
            f"a global batch of {batch_size} does not divide over {devices} devices"
        )
    rows = batch_size // devices
    if form == "auto":
        form = "streaming" if rows * batch_size > MAX_ROW_LOGITS else "rows"
    options = _Options(
        mesh,
        label_smoothing,
        distillation if teacher is not None else "none",
        temperature,
        num_blocks(rows, devices) if form == "streaming" else 0,
    )
    queries, keys = _scaled(student)
    teacher_pair = None
    if teacher is not None:
        teacher_pair = jax.lax.stop_gradient(_scaled(teacher))
    sums, nearest = _sums(options, queries, keys, labels, teacher_pair)
    directions = {
        "contrastive": (
            sums.rows.lse - sums.target,
            # Targets are symmetric: rows and columns have the same total.
            sums.columns.lse - sums.target,
        )
    }
    if teacher_pair is not None:
        student_pairs = jnp.sum(queries * keys, axis=1)
        teacher_pairs = jnp.sum(teacher_pair[0] * teacher_pair[1], axis=1)
        directions["distillation"] = (
            _distillation(options, sums.rows, student_pairs, teacher_pairs),
            _distillation(options, sums.columns, student_pairs, teacher_pairs),
        )
    reductions = {"contrastive": contrastive_reduction, "distillation": "mean"}
    result = {}
    for name, (image, text) in directions.items():
        terms = {"image": jnp.mean(image), "text": jnp.mean(text)}
        result[name] = mean_or_sum(terms, reductions[name])
        result |= {f"{name}/{side}": term for side, term in terms.items()}
    return result, nearest


def _scaled(clip: Embedded) -> tuple[Array, Array]:
    """Images with the temperature in them, and texts: their products are the logits."""
    scale = jnp.exp(clip.logit_scale.astype(jnp.float32))
    return scale * unit(clip.image), unit(clip.text)


def _distillation(
    options: _Options, side: _Side, student_pairs: Array, teacher_pairs: Array
) -> Array:
    """One direction of the distillation, a number for each row or column."""
    if options.distillation == "full":
        return side.lse - side.dot
    if options.distillation == "diagonal":
        return jnp.exp(teacher_pairs - side.teacher) * (side.lse - student_pairs)
    lse = side.lse if options.temperature == 1 else side.tempered
    # The authors divide by the number of entries, B times too many.
    factor = options.temperature**2 / len(student_pairs)
    return factor * (side.dot - side.teacher + lse)


def num_blocks(rows: int, devices: int) -> int:
    """The fewest equal slices of a device's texts that keep a block small.

    Args:
      rows: texts of one device.
      devices: how many give a slice to each block.
    """
    most = max(STREAMING_COLUMNS // devices, 1)
    return next(n for n in range(1, rows + 1) if rows % n == 0 and rows // n <= most)


Pair = tuple[Array, Array]  # images with the temperature in them, and texts
Logits = tuple[Array, Array | None]  # of the student and of the teacher


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sums(
    options: _Options, queries: Array, keys: Array, labels: Array, teacher: Pair | None
) -> tuple[_Sums, Array]:
    return _sums_forward(options, queries, keys, labels, teacher)[0]


def _sums_forward(
    options: _Options, queries: Array, keys: Array, labels: Array, teacher: Pair | None
) -> tuple[tuple[_Sums, Array], Any]:
    local = _over_mesh(options, _local_forward)
    sums, nearest, logits = local(queries, keys, labels, teacher)
    return (sums, nearest), (queries, keys, labels, teacher, sums, logits)


def _sums_backward(
    options: _Options, saved: Any, cotangents: tuple[_Sums, Any]
) -> tuple[Array, Array, None, None]:
    to_queries, to_keys = _over_mesh(options, _local_backward)(*saved, cotangents[0])
    return to_queries, to_keys, None, None


_sums.defvjp(_sums_forward, _sums_backward)


def _over_mesh(options: _Options, local: Any) -> Any:
    """A function of one device's rows, run on every device; all results are rows."""
    rows = PartitionSpec(options.axes)
    return jax.shard_map(
        functools.partial(local, options),
        mesh=options.mesh,
        in_specs=rows,
        out_specs=rows,
    )


def _local_forward(
    options: _Options, queries: Array, keys: Array, labels: Array, teacher: Pair | None
) -> tuple[_Sums, Array, Logits | None]:
    """One device's sums, the class of the nearest text, and in `rows` its logits."""
    share = _target_share(options, labels)

    def visit(texts: Any) -> tuple[Any, _Side, Logits]:
        keys, text_labels, teacher_keys = _gather(options, texts)
        logits = _logits(queries, keys, teacher, teacher_keys)
        targets = _targets(options, share, labels, text_labels)
        sums = [
            {name: _partial(*softmax, axis) for name, softmax in softmaxes.items()}
            for softmaxes in (_softmaxes(options, *logits),)
            for axis in (1, 0)
        ]
        nearest = text_labels[jnp.argmax(logits[0], axis=1)]
        target = jnp.sum(targets * logits[0], axis=1)
        return (sums[0], target, nearest), _finish_columns(options, sums[1]), logits

    texts = (keys, labels, None if teacher is None else teacher[1])
    saved = None
    if options.num_blocks:
        rows, columns = jax.lax.map(
            lambda block: visit(block)[:2], _blocks(options, texts)
        )
        columns = jax.tree.map(jnp.ravel, columns)
    else:
        rows, columns, saved = visit(texts)
        rows = jax.tree.map(lambda leaf: leaf[None], rows)
    partial, target, nearest = rows
    best = jnp.argmax(partial["lse"].maximum, axis=0)[None]
    sums = _Sums(_finish_rows(partial), columns, jnp.sum(target, axis=0))
    return sums, jnp.take_along_axis(nearest, best, axis=0)[0], saved


def _local_backward(
    options: _Options,
    queries: Array,
    keys: Array,
    labels: Array,
    teacher: Pair | None,
    sums: _Sums,
    saved: Logits | None,
    to: _Sums,
) -> tuple[Array, Array]:
    """Gradients of one device's images and texts."""
    share = _target_share(options, labels)

    def visit(total: Array, block: Any) -> tuple[Array, Array]:
        texts, columns, to_columns = block
        keys, text_labels, teacher_keys = _gather(options, texts)
        logits = saved or _logits(queries, keys, teacher, teacher_keys)
        gradient = to.target[:, None] * _targets(options, share, labels, text_labels)
        for side, to_side, axis in (
            (sums.rows, to.rows, 1),
            (*_gather_stacked(options, (columns, to_columns)), 0),
        ):
            side, to_side = jax.tree.map(
                lambda leaf, axis=axis: jnp.expand_dims(leaf, axis), (side, to_side)
            )
            gradient += _gradient(options, logits, side, to_side)
        return total + _product(gradient, keys), _scatter(
            options, _product(gradient.T, queries), axis=0
        )

    # The teacher's texts are gathered only where its logits are computed again.
    again = teacher[1] if teacher is not None and saved is None else None
    everything = ((keys, labels, again), sums.columns, to.columns)
    if not options.num_blocks:
        return visit(jnp.zeros_like(queries), everything)
    to_queries, to_keys = jax.lax.scan(
        visit, jnp.zeros_like(queries), _blocks(options, everything)
    )
    return to_queries, to_keys.reshape(keys.shape)


def _logits(
    queries: Array, keys: Array, teacher: Pair | None, teacher_keys: Array | None
) -> Logits:
    if teacher is None or teacher_keys is None:
        return _product(queries, keys.T), None
    return _product(queries, keys.T), _product(teacher[0], teacher_keys.T)


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision="highest")


def _target_share(options: _Options, labels: Array) -> Array:
    """What each positive of a row gets of its target, [b]."""
    ordered = jnp.sort(_gather(options, labels))
    first, after = (
        jnp.searchsorted(ordered, labels, side=side) for side in ("left", "right")
    )
    return (1 - options.label_smoothing) / (after - first)


def _targets(
    options: _Options, share: Array, labels: Array, text_labels: Array
) -> Array:
    """Targets of one device's rows, [b, columns]; symmetric over the whole batch."""
    positive = labels[:, None] == text_labels[None, :]
    spread = options.label_smoothing / (len(labels) * options.mesh.size)
    return jnp.where(positive, share[:, None], 0) + spread


def _softmaxes(
    options: _Options, logits: Array, teacher_logits: Array | None
) -> dict[str, tuple[Array, Array | None]]:
    """The logits of each softmax, and what is averaged under it."""
    temperature = options.temperature
    result: dict[str, tuple[Array, Array | None]] = {"lse": (logits, None)}
    if teacher_logits is None:
        return result
    if temperature != 1:
        result["tempered"] = (logits / temperature, None)
    teacher_logits = teacher_logits / temperature
    mixed = {
        "full": logits,
        "kl": teacher_logits - logits / temperature,
        "diagonal": None,
    }[options.distillation]
    return {**result, "teacher": (teacher_logits, mixed)}


def _gradient(options: _Options, logits: Logits, side: _Side, to: _Side) -> Array:
    """Gradient of the logits, [b, columns], by the sums of rows or of columns."""
    softmaxes = _softmaxes(options, *logits)
    gradient = to.lse * jnp.exp(logits[0] - side.lse)
    if "tempered" in softmaxes:
        probability = jnp.exp(softmaxes["tempered"][0] - side.tempered)
        gradient += to.tempered / options.temperature * probability
    if side.dot is not None:
        probability = jnp.exp(softmaxes["teacher"][0] - side.teacher)
        gradient += options.slope * to.dot * probability
    return gradient


class _Partial(NamedTuple):
    """A softmax over a part: maximum, sum of exp(. - maximum), weighted sum."""

    maximum: Array
    total: Array
    weighted: Array | None


def _partial(logits: Array, values: Array | None, axis: int) -> _Partial:
    maximum = jnp.max(logits, axis=axis)
    weights = jnp.exp(logits - jnp.expand_dims(maximum, axis))
    weighted = None if values is None else jnp.sum(weights * values, axis=axis)
    return _Partial(maximum, jnp.sum(weights, axis=axis), weighted)


def _finish_rows(partial: dict[str, _Partial]) -> _Side:
    """Joins the blocks, axis 0, of one device's rows."""
    maxima = {name: jnp.max(part.maximum, axis=0) for name, part in partial.items()}
    parts = {
        name: _rescaled(part, maxima[name][None]) for name, part in partial.items()
    }
    return _side(maxima, jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), parts))


def _finish_columns(options: _Options, partial: dict[str, _Partial]) -> _Side:
    """Joins the devices' shares of the columns; each keeps those of its own texts."""
    names = list(partial)
    stacked = jnp.stack([partial[name].maximum for name in names])
    maxima = dict(zip(names, jax.lax.pmax(stacked, options.axes), strict=True))
    parts = {name: _rescaled(partial[name], maxima[name]) for name in names}
    leaves, structure = jax.tree.flatten(parts)
    sums = _scatter(options, jnp.stack(leaves), axis=1)
    own = sums.shape[1] * jax.lax.axis_index(options.axes)
    maxima = {
        name: jax.lax.dynamic_slice_in_dim(maximum, own, sums.shape[1])
        for name, maximum in maxima.items()
    }
    return _side(maxima, jax.tree.unflatten(structure, list(sums)))


def _rescaled(part: _Partial, maximum: Array) -> tuple[Array, Array | None]:
    """Total and weighted sum against another maximum."""
    factor = jnp.exp(part.maximum - maximum)
    weighted = None if part.weighted is None else part.weighted * factor
    return part.total * factor, weighted


def _side(
    maxima: dict[str, Array], sums: dict[str, tuple[Array, Array | None]]
) -> _Side:
    lse = {name: maxima[name] + jnp.log(total) for name, (total, _) in sums.items()}
    dot = None
    if "teacher" in sums:
        total, weighted = sums["teacher"]
        dot = None if weighted is None else weighted / total
    return _Side(**lse, dot=dot)


def _blocks(options: _Options, tree: Any) -> Any:
    """Cuts a device's texts into the blocks that `lax.map` and `lax.scan` visit."""
    return jax.tree.map(
        lambda leaf: leaf.reshape(options.num_blocks, -1, *leaf.shape[1:]), tree
    )


def _gather(options: _Options, tree: Any) -> Any:
    """The rows of all devices, in order of devices."""
    return jax.tree.map(
        lambda leaf: jax.lax.all_gather(leaf, options.axes, tiled=True), tree
    )


def _gather_stacked(options: _Options, tree: Any) -> Any:
    """:func:`_gather` of many vectors as one collective."""
    leaves, structure = jax.tree.flatten(tree)
    stacked = jax.lax.all_gather(jnp.stack(leaves), options.axes, axis=1, tiled=True)
    return jax.tree.unflatten(structure, list(stacked))


def _scatter(options: _Options, array: Array, axis: int) -> Array:
    """The sum over devices, each keeping its own part of the axis."""
    return jax.lax.psum_scatter(array, options.axes, scatter_dimension=axis, tiled=True)
