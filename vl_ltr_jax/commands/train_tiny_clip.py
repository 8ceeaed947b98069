"""Training of the CLIP that ships with the package, on random compositions of shapes.

python -m vl_ltr_jax.commands.train_tiny_clip --out=DIR --steps=2000 --seed=0

The tiny CLIP stands for OpenAI's: it knows looks and their words, and has met no class
of the embedded data set, no name and no article. Its pictures are calmer and its
captions plainer than those of the set.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from vl_ltr_jax.data.images.transforms import normalize
from vl_ltr_jax.data.shapes.captions import caption, truth
from vl_ltr_jax.data.shapes.looks import WORDS, Looks, random_looks
from vl_ltr_jax.data.shapes.render import Style, render
from vl_ltr_jax.data.text.tokenizer import Tokenizer, trim
from vl_ltr_jax.data.text.vocabulary import read_merges, write_tokenizer
from vl_ltr_jax.logs import console, messages
from vl_ltr_jax.method.losses import contrastive_logits, cross_entropy, unit
from vl_ltr_jax.models import encode
from vl_ltr_jax.models.clip import PRESETS, Clip, ClipConfig
from vl_ltr_jax.models.port.clip_files import save_clip
from vl_ltr_jax.models.port.preprocessing import Preprocessing

SHIPPED = Path(str(resources.files("vl_ltr_jax"))) / "assets" / "tiny_clip"
STUDIO_STYLE = Style(clutter=3, specks=3, occlusion=0.05, shade=9, noise=8)
# Longer captions are cut; few are.
CONTEXT_LENGTH = 24
_MAX_LOGIT_SCALE = float(np.log(100))  # as in CLIP's own training
_PREFETCH = 4
_RECENT = 50  # steps whose mean loss is shown

Batch = dict[str, np.ndarray]
Step = Callable[[Any, Any, Batch], tuple[Any, Any, Float[Array, ""]]]


def training_batch(
    tokenizer: Tokenizer, *, seed: int, step: int, batch_size: int, image_size: int
) -> Batch:
    """Returns new pictures with captions, a function of (seed, step).

    Returns:
      `image` uint8 [B, H, W, 3]; `tokens` int32 [B, L], a caption for each picture;
      `truth` bool [B, B], True if a caption holds for a picture; `looks` int32 [B, 7],
      the value of each attribute; `mentioned` float32 [B, 7], 1 for attributes in the
      caption.
    """
    rng = np.random.default_rng([seed, step])
    looks = [random_looks(rng) for _ in range(batch_size)]
    images = [render(look, STUDIO_STYLE, rng, image_size) for look in looks]
    captions, mentioned = zip(*(caption(look, rng) for look in looks), strict=True)
    return {
        "image": np.stack(images),
        "tokens": trim(tokenizer.encode(captions, CONTEXT_LENGTH)),
        "truth": truth(looks, np.stack(mentioned)),
        "looks": np.array([_values(look) for look in looks], np.int32),
        "mentioned": np.stack(mentioned).astype(np.float32),
    }


def _values(looks: Looks) -> list[int]:
    return [list(WORDS[name]).index(value) for name, value in looks._asdict().items()]


def _attribute_loss(
    heads: Float[Array, "D V"],
    embeddings: Float[Array, "B D"],
    looks: Int[Array | np.ndarray, "B 7"],
    weights: Float[Array | np.ndarray, "B 7"],
) -> Float[Array, ""]:
    """Returns the cross entropy of the attributes, predicted by a linear head."""
    logits = 10.0 * unit(embeddings) @ heads
    splits = np.cumsum([len(values) for values in WORDS.values()])[:-1]
    total = jnp.zeros(())
    for place, part in enumerate(jnp.split(logits, splits, axis=1)):
        log_probabilities = jax.nn.log_softmax(part)
        own = jnp.take_along_axis(log_probabilities, looks[:, place][:, None], axis=1)
        weight = weights[:, place]
        total -= jnp.sum(own[:, 0] * weight) / jnp.maximum(jnp.sum(weight), 1)
    return total


def _prefetched(make: Callable[[int], Batch], steps: int) -> Iterator[Batch]:
    with ThreadPoolExecutor(1) as pool:
        pending = [pool.submit(make, step) for step in range(min(_PREFETCH, steps))]
        for step in range(steps):
            batch = pending.pop(0).result()
            if step + _PREFETCH < steps:
                pending.append(pool.submit(make, step + _PREFETCH))
            yield batch


def make_step(config: ClipConfig, optimizer: optax.GradientTransformation) -> Step:
    """Returns the compiled training step: CLIP's loss with shared targets.

    All captions that hold for a picture share its target, as texts of a class do in
    VL-LTR. A linear head of both towers also predicts the attributes. Without it the
    towers stay at chance for most of the training.
    """
    model = Clip(config)

    def loss_fn(trained: Any, batch: dict[str, Any]) -> Float[Array, ""]:
        params, heads = trained
        images = normalize(jnp.asarray(batch["image"]), "clip")
        variables = {"params": params}
        image = encode.image(model, variables, images)
        text = encode.text(model, variables, jnp.asarray(batch["tokens"]))
        scale = jnp.minimum(params["logit_scale"], _MAX_LOGIT_SCALE)
        logits = contrastive_logits(image, text, scale)
        targets = jnp.asarray(batch["truth"], jnp.float32)
        by_image = targets / targets.sum(axis=1, keepdims=True)
        by_text = (targets / targets.sum(axis=0, keepdims=True)).T
        contrastive = cross_entropy(logits, by_image) + cross_entropy(logits.T, by_text)
        everything = jnp.ones_like(batch["mentioned"])
        return (
            contrastive / 2
            + _attribute_loss(heads, image, batch["looks"], everything)
            + _attribute_loss(heads, text, batch["looks"], batch["mentioned"])
        )

    @jax.jit
    def step(
        params: Any, opt_state: Any, batch: dict[str, Any]
    ) -> tuple[Any, Any, Float[Array, ""]]:
        loss, gradients = jax.value_and_grad(loss_fn)(params, batch)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    return step


def train(
    out: str | Path,
    *,
    steps: int,
    seed: int = 0,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    config: ClipConfig = PRESETS["ViT-tiny"],
) -> list[float]:
    """Trains, and writes a Hugging Face CLIP directory after every tenth of the steps.

    Args:
      out: directory to write, with the shipped tokenizer.
      steps: number of updates.
      seed: seed of parameters, pictures and captions.
      batch_size: pairs of an update, B.
      learning_rate: peak; warm-up over a twentieth of the steps, then a cosine.
      config: sizes of the model.

    Returns:
      The loss of every step.

    Raises:
      ValueError: `steps` is below 1 or `batch_size` below 2.
    """
    if steps < 1 or batch_size < 2:
        raise ValueError(
            f"steps={steps}, batch_size={batch_size}: take at least 1 and 2"
        )
    merges = read_merges(SHIPPED / "merges.txt")
    write_tokenizer(out, merges, vocab_size=config.text.vocab_size)
    tokenizer = Tokenizer.from_directory(out)
    size = config.vision.image_size
    params = Clip(config).init(
        jax.random.key(seed), jnp.zeros((1, size, size, 3)), jnp.zeros((1, 8), int)
    )["params"]
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, max(1, steps // 20), steps + 1, 0.01 * learning_rate
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.1)
    )
    num_values = sum(len(values) for values in WORDS.values())
    trained = params, jnp.zeros((config.embed_dim, num_values))
    opt_state = optimizer.init(trained)
    update = make_step(config, optimizer)

    def make(step: int) -> Batch:
        return training_batch(
            tokenizer, seed=seed, step=step, batch_size=batch_size, image_size=size
        )

    losses: list[float] = []
    start = time.perf_counter()
    with console.progress_bar("tiny CLIP", steps, "steps") as bar:
        for number, batch in enumerate(_prefetched(make, steps), 1):
            trained, opt_state, loss = update(trained, opt_state, batch)
            losses.append(float(loss))
            bar.set_postfix(loss=np.mean(losses[-_RECENT:]), refresh=False)
            bar.update()
            if number % max(1, steps // 10) == 0 or number == steps:
                save_clip(
                    out,
                    config,
                    {"params": trained[0]},
                    preprocessing=Preprocessing(size),
                )
    duration = messages.format_duration(time.perf_counter() - start)
    recent = f"loss {np.mean(losses[-_RECENT:]):.3f}"
    console.say(f"{steps:,} steps in {duration}, {recent}", stage="tiny CLIP")
    return losses


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="directory to write")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    train(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
