"""Sums over the rows and columns of B x B logits that no device holds.

Each device computes the logits of its own images with all texts, once. It finishes its
rows alone; columns take a maximum and a sum over the mesh. The backward pass knows the
logsumexps, so the gradient of a logit is local. Gradients of texts are summed over
devices and scattered in one collective.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int


class Side(NamedTuple):
    """Sums over each row, or each column, of the logits S, and R of the teacher.

    Sums that no loss needs are None.

    Attributes:
      lse: logsumexp of S.
      tempered: logsumexp of S / temperature.
      teacher: logsumexp of R / temperature.
      dot: mean under the softmax of R / temperature: of S for the form 'full', of
        (R - S) / temperature for 'kl'.
    """

    lse: Any
    tempered: Any = None
    teacher: Any = None
    dot: Any = None


class Sums(NamedTuple):
    """Sums over rows and columns, and sum_j target_ij S_ij of each row i."""

    rows: Side
    columns: Side
    target: Any


@dataclasses.dataclass(frozen=True)
class Options:
    """Constants of a traced step.

    Attributes:
      mesh: devices, over all axes of which rows are split.
      label_smoothing: share of each target spread over the whole row.
      distillation: 'none', or a form of :func:`losses.distillation`.
      temperature: temperature of 'kl'.
      num_blocks: blocks that texts are gathered in. With 0, all at once, the backward
        pass reuses the logits.
    """

    mesh: jax.sharding.Mesh
    label_smoothing: float
    distillation: str
    temperature: float
    num_blocks: int

    @property
    def axes(self) -> tuple[str, ...]:
        """Axes of the mesh; rows are split over all of them."""
        return self.mesh.axis_names

    @property
    def slope(self) -> float:
        """Derivative by S of the values averaged under the teacher's softmax."""
        return -1 / self.temperature if self.distillation == "kl" else 1.0


Pair = tuple[Array, Array]  # images with the temperature in them, and texts
Logits = tuple[Array, Array | None]  # of the student and of the teacher


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def pair_sums(
    options: Options,
    queries: Float[Array, "B D"],
    keys: Float[Array, "B D"],
    labels: Int[Array, " B"],
    teacher: Pair | None,
) -> tuple[Sums, Int[Array, " B"]]:
    """Returns sums of the logits queries keys^T over a batch split over the mesh.

    Args:
      options: constants of the step.
      queries: unit image embeddings times the inverse temperature.
      keys: unit text embeddings.
      labels: class of each image, and so of its text.
      teacher: queries and keys of the frozen CLIP; no gradient reaches them.

    Returns:
      The sums, and the class of the text nearest to each image.
    """
    return _forward(options, queries, keys, labels, teacher)[0]


def _forward(
    options: Options, queries: Array, keys: Array, labels: Array, teacher: Pair | None
) -> tuple[tuple[Sums, Array], Any]:
    local = _over_mesh(options, _local_forward)
    sums, nearest, logits = local(queries, keys, labels, teacher)
    return (sums, nearest), (queries, keys, labels, teacher, sums, logits)


def _backward(
    options: Options, saved: Any, cotangents: tuple[Sums, Any]
) -> tuple[Array, Array, None, None]:
    to_queries, to_keys = _over_mesh(options, _local_backward)(*saved, cotangents[0])
    return to_queries, to_keys, None, None


pair_sums.defvjp(_forward, _backward)


def _over_mesh(options: Options, local: Any) -> Any:
    """Returns a function of one device's rows as one of all rows."""
    rows = PartitionSpec(options.axes)
    return jax.shard_map(
        functools.partial(local, options),
        mesh=options.mesh,
        in_specs=rows,
        out_specs=rows,
    )


def _local_forward(
    options: Options, queries: Array, keys: Array, labels: Array, teacher: Pair | None
) -> tuple[Sums, Array, Logits | None]:
    """Returns one device's sums, nearest classes, and in the form `rows` its logits."""
    share = _target_share(options, labels)

    def visit(texts: Any) -> tuple[Any, Side, Logits]:
        keys, text_labels, teacher_keys = _gather(options, texts)
        logits = _logits(queries, keys, teacher, teacher_keys)
        targets = _targets(options, share, labels, text_labels)
        softmaxes = _softmaxes(options, *logits)
        rows, columns = (
            {name: _partial(*softmax, axis) for name, softmax in softmaxes.items()}
            for axis in (1, 0)
        )
        nearest = text_labels[jnp.argmax(logits[0], axis=1)]
        target = jnp.sum(targets * logits[0], axis=1)
        return (rows, target, nearest), _finish_columns(options, columns), logits

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
    sums = Sums(_finish_rows(partial), columns, jnp.sum(target, axis=0))
    return sums, jnp.take_along_axis(nearest, best, axis=0)[0], saved


def _local_backward(
    options: Options,
    queries: Array,
    keys: Array,
    labels: Array,
    teacher: Pair | None,
    sums: Sums,
    saved: Logits | None,
    to: Sums,
) -> tuple[Array, Array]:
    """Returns gradients of one device's images and texts."""
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


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")


def _target_share(options: Options, labels: Array) -> Array:
    """Returns the share of each positive in the target of its row, [b]."""
    ordered = jnp.sort(_gather(options, labels))
    first, after = (
        jnp.searchsorted(ordered, labels, side=side) for side in ("left", "right")
    )
    return (1 - options.label_smoothing) / (after - first)


def _targets(
    options: Options, share: Array, labels: Array, text_labels: Array
) -> Array:
    """Returns one device's targets, [b, columns]; symmetric over the global batch."""
    positive = labels[:, None] == text_labels[None, :]
    spread = options.label_smoothing / (len(labels) * options.mesh.size)
    return jnp.where(positive, share[:, None], 0) + spread


def _softmaxes(
    options: Options, logits: Array, teacher_logits: Array | None
) -> dict[str, tuple[Array, Array | None]]:
    """Returns the logits of each softmax, and the values averaged under it."""
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


def _gradient(options: Options, logits: Logits, side: Side, to: Side) -> Array:
    """Returns the gradient by the logits, [b, columns], of the sums of one side."""
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
    """Softmax over a part: maximum, sum of exp(. - maximum), weighted sum."""

    maximum: Array
    total: Array
    weighted: Array | None


def _partial(logits: Array, values: Array | None, axis: int) -> _Partial:
    maximum = jnp.max(logits, axis=axis)
    weights = jnp.exp(logits - jnp.expand_dims(maximum, axis))
    weighted = None if values is None else jnp.sum(weights * values, axis=axis)
    return _Partial(maximum, jnp.sum(weights, axis=axis), weighted)


def _finish_rows(partial: dict[str, _Partial]) -> Side:
    """Joins the blocks, axis 0, of one device's rows."""
    maxima = {name: jnp.max(part.maximum, axis=0) for name, part in partial.items()}
    parts = {
        name: _rescaled(part, maxima[name][None]) for name, part in partial.items()
    }
    return _side(maxima, jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), parts))


def _finish_columns(options: Options, partial: dict[str, _Partial]) -> Side:
    """Joins the devices' shares of the columns; each gets those of its own texts."""
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
    """Returns total and weighted sum against another maximum."""
    factor = jnp.exp(part.maximum - maximum)
    weighted = None if part.weighted is None else part.weighted * factor
    return part.total * factor, weighted


def _side(
    maxima: dict[str, Array], sums: dict[str, tuple[Array, Array | None]]
) -> Side:
    lse = {name: maxima[name] + jnp.log(total) for name, (total, _) in sums.items()}
    dot = None
    if "teacher" in sums:
        total, weighted = sums["teacher"]
        dot = None if weighted is None else weighted / total
    return Side(**lse, dot=dot)


def _blocks(options: Options, tree: Any) -> Any:
    """Cuts a device's texts into the blocks that `lax.map` and `lax.scan` visit."""
    return jax.tree.map(
        lambda leaf: leaf.reshape(options.num_blocks, -1, *leaf.shape[1:]), tree
    )


def _gather(options: Options, tree: Any) -> Any:
    """Returns the rows of all devices, in order of devices."""
    return jax.tree.map(
        lambda leaf: jax.lax.all_gather(leaf, options.axes, tiled=True), tree
    )


def _gather_stacked(options: Options, tree: Any) -> Any:
    """:func:`_gather` of many vectors as one collective."""
    leaves, structure = jax.tree.flatten(tree)
    stacked = jax.lax.all_gather(jnp.stack(leaves), options.axes, axis=1, tiled=True)
    return jax.tree.unflatten(structure, list(stacked))


def _scatter(options: Options, array: Array, axis: int) -> Array:
    """Returns the sum over devices; each gets its own part of the axis."""
    return jax.lax.psum_scatter(array, options.axes, scatter_dimension=axis, tiled=True)
