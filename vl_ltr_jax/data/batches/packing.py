"""Several sentences to a row: the text tower's batch without its padding.

A sentence of an encyclopaedia has about a third of CLIP's 77 tokens. Sentences of a
packed row see only themselves and count positions from 0, so their embeddings are those
of single sentences. Not in the paper.

Rows come in groups, one for each device and chunk of its batch, with the sentences of
its own images: no text crosses devices.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int, Integer

_TRIED_STEPS = 32
_GROWTH = 1.25
# A run of 16 steps is more than a trial, and few data sets have ended an epoch.
_SECOND_SHAPE_STEP = 16


class Packer:
    """Packs the sentences of global batches into arrays of few shapes."""

    def __init__(
        self,
        tokens: Integer[np.ndarray, "S L"],
        batch_size: int,
        num_devices: int,
        num_chunks: int,
        draw: Callable[[int], Int[np.ndarray, " B"]],
    ) -> None:
        """Chooses the numbers of rows by the first steps of training.

        One of them always has the second shape, so that both are compiled early. Few
        steps of a long run need it, and should not wait for a compiler days later.

        Args:
          tokens: zero-padded ids of every sentence; the end of text is the largest.
          batch_size: B, over all devices.
          num_devices: each takes B / `num_devices` images, and their sentences.
          num_chunks: of each device's batch; its row i is in chunk i % `num_chunks`.
          draw: from a step to the sentences of the global batch.

        Raises:
          ValueError: B is not a multiple of devices times chunks.
        """
        if batch_size % (num_devices * num_chunks):
            raise ValueError(
                f"a batch of {batch_size} does not divide into {num_chunks} chunks on "
                f"each of {num_devices} devices"
            )
        self._tokens, self._draw = tokens, draw
        self._lengths = np.argmax(tokens, axis=1) + 1
        self._layout = (num_devices, -1, num_chunks)
        self._num_groups = num_devices * num_chunks
        self._group_size = batch_size // self._num_groups
        needed = max(self._plan(step)[2] for step in range(_TRIED_STEPS))
        self._sizes = [needed]
        while self._sizes[-1] < self._group_size:
            larger = max(int(self._sizes[-1] * _GROWTH), self._sizes[-1] + 1)
            self._sizes.append(min(larger, self._group_size))

    def shapes(self) -> list[dict[str, tuple[int, ...]]]:
        """Returns the shapes of all groups' arrays, for the two numbers of rows."""
        (_, width), groups = self._tokens.shape, self._num_groups
        return [
            {
                **dict.fromkeys(
                    ("tokens", "segments", "positions"), (groups, rows, width)
                ),
                "ends": (groups, self._group_size),
            }
            for rows in self._sizes[:2]
        ]

    def pack(
        self, step: int, process_index: int = 0, process_count: int = 1
    ) -> dict[str, np.ndarray]:
        """Returns this process's groups of a step; all processes choose one shape.

        Returns:
          int32 arrays. `tokens`, `segments` and `positions` are [g, R, L]; segments
          count the sentences of a row from 1, and padding is 0. `ends` [g, b] is the
          place of each sentence's end of text among the R L positions of its group.
        """
        groups, plans, needed = self._plan(step)
        if step == _SECOND_SHAPE_STEP and len(self._sizes) > 1:
            needed = self._sizes[1]
        num_rows = next(size for size in self._sizes if size >= needed)
        share = self._num_groups // process_count
        own = range(process_index * share, (process_index + 1) * share)
        packed = [self._fill(groups[g], *plans[g], num_rows) for g in own]
        return {name: np.stack([group[name] for group in packed]) for name in packed[0]}

    def _plan(
        self, step: int
    ) -> tuple[Int[np.ndarray, "G b"], list[tuple[np.ndarray, np.ndarray]], int]:
        """Returns sentences and places of each group, and the number of rows."""
        drawn = self._draw(step).reshape(self._layout)
        groups = drawn.swapaxes(1, 2).reshape(self._num_groups, -1)
        width = self._tokens.shape[1]
        plans = [place(self._lengths[group], width) for group in groups]
        return groups, plans, max(int(rows.max()) + 1 for rows, _ in plans)

    def _fill(
        self,
        sentences: np.ndarray,
        rows: np.ndarray,
        starts: np.ndarray,
        num_rows: int,
    ) -> dict[str, np.ndarray]:
        width = self._tokens.shape[1]
        lengths = self._lengths[sentences]
        shape = (num_rows, width)
        tokens, segments, positions = (np.zeros(shape, np.int32) for _ in range(3))
        count = np.zeros(num_rows, np.int32)
        for sentence, row, start, length in zip(
            sentences, rows, starts, lengths, strict=True
        ):
            span = slice(start, start + length)
            count[row] += 1
            tokens[row, span] = self._tokens[sentence, :length]
            segments[row, span] = count[row]
            positions[row, span] = np.arange(length)
        ends = (rows * width + starts + lengths - 1).astype(np.int32)
        return dict(tokens=tokens, segments=segments, positions=positions, ends=ends)


def place(
    lengths: Int[np.ndarray, " b"], row_length: int
) -> tuple[Int[np.ndarray, " b"], Int[np.ndarray, " b"]]:
    """Returns rows and first columns: longest first, each into the fullest row.

    Args:
      lengths: tokens of each sentence, at most `row_length`.
      row_length: tokens in a row.
    """
    rows, starts = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    by_space: list[list[int]] = [[] for _ in range(row_length + 1)]
    num_rows = 0
    for index in np.argsort(-lengths, kind="stable"):
        length = int(lengths[index])
        for space in range(length, row_length + 1):
            if by_space[space]:
                row = by_space[space].pop()
                break
        else:
            row, space = num_rows, row_length
            num_rows += 1
        rows[index], starts[index] = row, row_length - space
        by_space[space - length].append(row)
    return rows, starts
