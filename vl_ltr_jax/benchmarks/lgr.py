"""The LGR head, forward and backward, against PyTorch by the paper's formula.

    python -m vl_ltr_jax.benchmarks.lgr --classes=1000 --batch_size=64

PyTorch projects every anchor to a key and builds the attended text of every image and
class. `--alone` skips it, for sizes beyond its memory.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch.nn import functional as F

from vl_ltr_jax.benchmarks import paired
from vl_ltr_jax.models import lgr

LOGIT_SCALE = float(np.log(100))


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=paired.count, default=1000)
    parser.add_argument("--anchors", type=paired.count, default=64)
    parser.add_argument("--width", type=paired.count, default=512)
    parser.add_argument("--batch_size", type=paired.count, default=64)
    parser.add_argument("--rounds", type=paired.count, default=5)
    parser.add_argument("--alone", action="store_true", help="without PyTorch")
    paired.add_allocator(parser)
    options = parser.parse_args(argv)
    paired.use_allocator(options.allocator)
    print(f"allocator of both sides: {options.allocator}")
    classes, width, size = options.classes, options.width, options.batch_size
    step, arguments, layout, plain = sides(classes, options.anchors, width, size)
    programs: dict[str, Any] = {"ours": lambda: step(*arguments)}
    if not options.alone:
        programs["PyTorch"] = plain("cpu")
    costs = paired.run(programs, options.rounds)
    compiled: Any = step.lower(*arguments).compile()
    comparisons = 2.0 * size * classes * options.anchors * width
    keys = 2.0 * classes * options.anchors * width**2
    mlp = 2.0 * size * 4 * width * (width + classes)
    counted = paired.compiled_work(compiled)
    if layout.blocks > 1:  # the compiler counts a loop's body once
        counted = paired.Work(5 * comparisons + 3 * mlp)
    # Backward takes twice forward, without the arrays that do not train.
    work = {
        "ours": counted,
        "PyTorch": paired.Work(3 * keys + 8 * comparisons + 3 * mlp),
    }
    title = (
        f"LGR, C {classes}, M {options.anchors}, D {width}, B {size}, "
        f"{layout.blocks} block(s) of classes"
    )
    print(paired.table(title, costs, paired.ceilings(), work))
    memory = compiled.memory_analysis()
    print(
        f"ours: {memory.temp_size_in_bytes / 2**20:.0f} MiB temporary, "
        f"{memory.argument_size_in_bytes / 2**20:.0f} MiB of arguments"
    )
    if not options.alone:
        ours, theirs = float(step(*arguments)[0]), float(programs["PyTorch"]())
        print(f"losses: {ours:.6f} and {theirs:.6f}")


def sides(
    classes: int, num_anchors: int, width: int, batch_size: int
) -> tuple[Any, tuple[Any, ...], lgr.ClassLayout, Callable[[str], Callable[[], Any]]]:
    """Returns our step, its arguments and layout, and PyTorch's step on a device."""
    rng = np.random.default_rng(0)
    anchors = rng.standard_normal((classes, num_anchors, width), np.float32)
    images = rng.standard_normal((batch_size, width), np.float32)
    labels = rng.integers(0, classes, batch_size)
    layout = lgr.ClassLayout.fit(classes, num_anchors, batch_size, {"model": 1})
    padded = layout.padded
    head = lgr.LanguageGuidedHead(classes, width, LOGIT_SCALE, layout=layout)
    table = jax.device_put(np.pad(anchors, [(0, padded - classes), (0, 0), (0, 0)]))
    padding = jnp.broadcast_to(jnp.arange(padded)[:, None] >= classes, table.shape[:2])
    constants = jax.jit(lgr.anchor_constants)(table)
    params = jax.jit(head.init)(jax.random.key(0), images, table, padding)["params"]

    def cross_entropy(logits: jax.Array) -> jax.Array:
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    @jax.jit
    def step(params: Any, images: jax.Array, *frozen: Any) -> tuple[jax.Array, Any]:
        def loss(params: Any) -> jax.Array:
            logits = head.apply({"params": params}, images, *frozen)
            visual, language = map(cross_entropy, logits)
            return visual + language

        return jax.value_and_grad(loss)(params)

    arguments = (params, jax.device_put(images), table, padding, constants)
    plain = functools.partial(plain_head, anchors, images, labels, params)
    return step, arguments, layout, plain


def plain_head(
    anchors: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    params: Any,
    device: str,
) -> Callable[[], torch.Tensor]:
    """One step of the head as PyTorch modules with our parameters; gives its loss."""
    width = anchors.shape[-1]
    texts, features, targets = (
        torch.from_numpy(array).to(device) for array in (anchors, images, labels)
    )
    query_norm, key_norm = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
    query_map, key_map = (torch.nn.Linear(width, width, bias=False) for _ in range(2))
    hidden = torch.nn.Linear(width, 4 * width)
    classifier = torch.nn.Linear(4 * width, len(anchors))
    mlp = torch.nn.Sequential(hidden, torch.nn.ReLU(), classifier)
    with torch.no_grad():
        for linear in (query_map, key_map):
            linear.weight.copy_(torch.eye(width))
        for linear, name in ((hidden, "fc1"), (classifier, "fc2")):
            ours = params["visual_fc"][name]
            linear.weight.copy_(torch.from_numpy(np.array(ours["kernel"]).T))
            linear.bias.copy_(torch.from_numpy(np.array(ours["bias"])))
    modules = torch.nn.ModuleList([query_norm, key_norm, query_map, key_map, mlp])
    modules.to(device)

    def step() -> torch.Tensor:
        modules.zero_grad()
        query, keys = query_map(query_norm(features)), key_map(key_norm(texts))
        scores = torch.einsum("bd,cmd->bcm", query, keys) / width**0.5
        attended = torch.einsum("bcm,cmd->bcd", scores.softmax(-1), texts)
        directions = F.normalize(features, dim=-1), F.normalize(attended, dim=-1)
        language = np.exp(LOGIT_SCALE) * torch.einsum("bd,bcd->bc", *directions)
        loss = F.cross_entropy(mlp(features), targets)
        loss = loss + F.cross_entropy(language, targets)
        loss.backward()
        return loss.detach().cpu()

    return step


if __name__ == "__main__":
    main()
