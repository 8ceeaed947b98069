"""What a pickle would do, told from its opcodes before it is opened.

Nothing is run or built. `weights_only=True` lets a file of a kilobyte make gigabytes of
one number, and call for the hash of a tuple that holds itself twice, sixty deep: here a
stack of sizes is kept as the unpickler would keep its values, and every part counts as
often as it is met again.
"""

import dataclasses
import io
import pickletools
from collections.abc import Callable, Sequence
from typing import Any

from vl_ltr_jax.runtime.errors import UserError

# Parts that a byte of a pickle may stand for; those of PyTorch stand for less than one.
_MOST_REPEATS = 16
_FREE = 1000  # parts that every pickle may have
_TEXT = 8  # characters that count as one part

_SCALARS = {
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1"),
    *("BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"),
}
_EMPTY = {"EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_GROWS = ("collections.OrderedDict", "collections.Counter")


class PickleError(UserError):
    """A pickle that cannot be what PyTorch writes; the message says what it does."""


class CallError(PickleError):
    """A pickle that calls what is not allowed; the message names that."""


@dataclasses.dataclass(eq=False)
class _Value:
    """What an unpickler would have in its place.

    Attributes:
      size: parts, those met again counted again.
      items: of a tuple.
      name: of a global; of a short text, the text.
      fixed: whether a hash of it is one of texts and numbers alone.
      grows: whether something may still be added.
    """

    size: int = 1
    items: tuple["_Value", ...] = ()
    name: str = ""
    is_global: bool = False
    fixed: bool = True
    grows: bool = False


def check(
    file: io.BufferedReader | io.BytesIO, may_call: Callable[[str], bool]
) -> None:
    """Goes over one pickle; the file stands behind it afterwards.

    Args:
      file: stands before the pickle.
      may_call: whether a global, by its full name, may be called.

    Raises:
      CallError: if it calls anything else.
      PickleError: if it has opcodes or an order that PyTorch does not write, or stands
        for far more than it holds.
      Exception: pickletools and a stack that is empty raise many kinds.
    """
    walk, begin = _Walk(may_call), file.tell()
    for opcode, argument, place in pickletools.genops(file):
        walk.limit = _FREE + _MOST_REPEATS * ((place or 0) - begin)
        walk.step(opcode.name, argument)


class _Walk:
    """The stack and the memo of an unpickler."""

    def __init__(self, may_call: Callable[[str], bool]) -> None:
        self._may_call = may_call
        self._stack: list[_Value] = []
        self._below: list[list[_Value]] = []
        self._memo: dict[int, _Value] = {}
        self._spent = 0
        self.limit = _FREE

    def step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        if opcode in _SCALARS:
            text = str(argument) if isinstance(argument, str | bytes) else ""
            short = text if len(text) < 20 else ""
            stack.append(_Value(1 + len(text) // _TEXT, name=short))
        elif opcode in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif opcode in _TUPLES:
            self._tuple([stack.pop() for _ in range(_TUPLES[opcode])][::-1])
        elif opcode == "TUPLE":
            self._tuple(self._to_mark())
        elif opcode == "EMPTY_TUPLE":
            self._tuple([])
        elif opcode in _EMPTY:
            stack.append(_Value(fixed=False, grows=True))
        elif opcode == "MARK":
            self._below.append(stack)
            self._stack = []
        elif opcode in ("APPEND", "SETITEM"):
            number = 1 if opcode == "APPEND" else 2
            self._add([stack.pop() for _ in range(number)][::-1], number)
        elif opcode in ("APPENDS", "SETITEMS"):
            self._add(self._to_mark(), 1 if opcode == "APPENDS" else 2)
        elif opcode == "GLOBAL":
            name = argument.replace(" ", ".", 1).replace("__builtin__", "builtins")
            stack.append(_Value(name=name, is_global=True))
        elif opcode in ("REDUCE", "NEWOBJ"):
            self._call(stack.pop(-2), stack.pop())
        elif opcode == "BUILD":
            self._spend(stack.pop())
        elif opcode == "BINPERSID":
            named = stack.pop()
            if not named.items or not named.fixed:
                raise PickleError("names a storage by what is no name")
            self._spend(named)
            stack.append(_Value(fixed=False))
        elif opcode not in ("PROTO", "STOP"):
            raise PickleError(f"has the operation {opcode}")

    def _to_mark(self) -> list[_Value]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _tuple(self, items: Sequence[_Value]) -> None:
        made = _Value(1 + self._take(items), tuple(items))
        made.fixed = all(item.fixed for item in items)
        self._stack.append(self._bounded(made))

    def _add(self, items: Sequence[_Value], each: int) -> None:
        owner = self._stack[-1]
        if not owner.grows:  # its size is part of another's
            raise PickleError("adds to what it has put elsewhere")
        owner.size += self._take(items)
        self._bounded(owner)
        if each == 2:
            for key in items[::2]:
                self._spend(key)

    def _call(self, called: _Value, given: _Value) -> None:
        name = called.name
        if not called.is_global:
            raise PickleError("calls what is no function")
        if not self._may_call(name):
            raise CallError(f"a call of {name[:200]}")
        if name == "_codecs.encode" and [i.name for i in given.items[1:]] != ["latin1"]:
            raise CallError(f"a call of {name}")  # others take time or room
        self._spend(given)
        made = _Value(given.size, fixed=False, grows=name in _GROWS)
        self._stack.append(made)

    def _take(self, items: Sequence[_Value]) -> int:
        for item in items:
            item.grows = False
        return sum(item.size for item in items)

    def _spend(self, value: _Value) -> None:
        """Of a value whose parts are gone over, such as a key that is hashed."""
        value.grows = False
        self._spent += value.size
        if self._spent > self.limit:
            raise PickleError("asks for the same parts again and again")

    def _bounded(self, value: _Value) -> _Value:
        if value.size > self.limit:
            raise PickleError("holds the same parts again and again")
        return value
