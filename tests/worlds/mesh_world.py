"""Losses, anchors and evaluation computed on a mesh, for comparisons of meshes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vl_ltr_jax.config.settings import Evaluate
from vl_ltr_jax.evaluate import split as evaluate
from vl_ltr_jax.method import anss, pair_losses
from vl_ltr_jax.models import encode
from vl_ltr_jax.models.clip import Clip, ClipConfig, TextConfig, VisionConfig
from vl_ltr_jax.models.lgr import ClassLayout, LanguageGuidedHead, anchor_constants
from vl_ltr_jax.run import embedding
from vl_ltr_jax.runtime import mesh as meshes
from vl_ltr_jax.train.finetune import PlacedAnchors

CLASSES, IMAGES, SENTENCES, PAIRS, WIDTH, ANCHORS = 11, 37, 90, 64, 24, 8
CONFIG = ClipConfig(
    VisionConfig("vit", 8, 16, 1, 1, 4), TextConfig(16, 1, 1, 6, 50), WIDTH
)


def draw():
    """Draws the same numbers in every process."""
    rng = np.random.default_rng(11)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    def labels(count):
        return rng.integers(0, CLASSES, count).astype(np.int32)

    names = ("image", "text", "frozen_image", "frozen_text")
    return {
        "pairs": {name: normal(PAIRS, WIDTH) for name in names},
        "pair_labels": labels(PAIRS),
        "pixels": rng.integers(0, 256, (IMAGES, 8, 8, 3), np.uint8),
        "labels": labels(IMAGES),
        "sentences": normal(SENTENCES, WIDTH),
        "sentence_labels": np.sort(labels(SENTENCES)),
    }


def losses_of(mesh, world, form):
    """Returns value and gradients, each device with its rows."""
    share = PAIRS // jax.process_count()
    rows = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    arrays = {**world["pairs"], "labels": world["pair_labels"]}
    batch = meshes.to_global(mesh, {k: v[rows] for k, v in arrays.items()})

    def loss(image, text, scale, batch):
        teacher = (batch["frozen_image"], batch["frozen_text"], jnp.float32(4.6))
        values, _ = pair_losses.pretraining_losses(
            pair_losses.Embedded(image, text, scale),
            pair_losses.Embedded(*teacher),
            batch["labels"],
            mesh,
            form=form,
        )
        return values["contrastive"] + values["distillation"]

    differentiate = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    scale = meshes.place(np.float32(3.0), meshes.replicated(mesh))
    value, gradients = differentiate(batch["image"], batch["text"], scale, batch)
    named = zip(("image", "text", "scale"), gradients, strict=True)
    return {"loss": value, **dict(named)}


def batches(world):
    """Yields this process's rows of padded batches of 16 images."""
    share = 16 // jax.process_count()
    for start in range(0, IMAGES, 16):
        index = np.arange(16)[jax.process_index() * share :][:share] + start
        real = index < IMAGES
        index = np.where(real, index, 0)
        yield {
            "image": world["pixels"][index],
            "label": np.where(real, world["labels"][index], 0).astype(np.int32),
            "mask": real,
        }


def everything(mesh):
    """Returns all that a run computes with the mesh, on the host of each process."""
    world, model = draw(), Clip(CONFIG)
    result = {
        f"{form}/{name}": value
        for form in ("rows", "streaming")
        for name, value in losses_of(mesh, world, form).items()
    }

    def prepare(images):
        return images.astype(jnp.float32) / 255

    init = jax.jit(model.init)(
        jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 6), jnp.int32)
    )
    towers = meshes.place(jax.tree.map(np.asarray, init), meshes.replicated(mesh))
    images, image_labels = embedding.embed_images(
        jax.jit(lambda pixels: encode.image(model, towers, prepare(pixels))),
        batches(world),
        mesh,
    )
    scores = anss.score_sentences(
        meshes.shard_rows(mesh, world["sentences"], "model"),
        meshes.shard_rows(mesh, world["sentence_labels"] + 1, "model") - 1,
        meshes.shard_rows(mesh, images, "data"),
        meshes.shard_rows(mesh, image_labels + 1, "data") - 1,
        3.0,
        mesh=mesh,
        blocks=(16, 16),
    )
    result["scores"] = meshes.to_host(scores)[:SENTENCES]
    indices, padding = anss.select_anchors(
        result["scores"], world["sentence_labels"], CLASSES, ANCHORS
    )
    shards = mesh.shape["model"]
    head = LanguageGuidedHead(
        CLASSES, WIDTH, 3.0, layout=ClassLayout(-(-CLASSES // shards) * shards)
    )
    anchors = np.where(padding[..., None], 0, world["sentences"][indices])
    params = jax.jit(LanguageGuidedHead(CLASSES, WIDTH, 3.0).init)(
        jax.random.key(1), np.zeros((1, WIDTH), np.float32), anchors, padding
    )["params"]
    split = functools.partial(meshes.shard_rows, mesh, axes="model")
    embeddings = split(anchors)
    constants = jax.jit(anchor_constants)(embeddings)
    frozen = evaluate.Frozen(
        towers,
        head=meshes.place(jax.tree.map(np.asarray, params), meshes.replicated(mesh)),
        anchors=PlacedAnchors(embeddings, ~split(~padding), constants),
        sentences=split(world["sentences"]),
        sentence_labels=split(world["sentence_labels"] + 1) - 1,
        class_texts=split(world["sentences"][:CLASSES]),
    )
    scores_of = evaluate.make_scores(model, head, prepare, Evaluate(), CLASSES, mesh)
    count = evaluate.make_count(scores_of, CLASSES, lambda frozen, heads: heads["lgr"])
    names = ("labels", "classes", "probabilities", "margins", "features")
    sums, arrays = evaluate.evaluate_split(count, frozen, batches(world), mesh, names)
    counts = {f"{name}/counts": np.stack(s) for name, s in sums.items()}
    result |= {"anchors": indices, "padding": padding, "images": images}
    result |= counts | arrays
    return meshes.to_host(result)
