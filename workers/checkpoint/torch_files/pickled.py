"""A pickle read as data: what it says that it would make, without making it.

A pickle is a program for a stack machine, and unpickling runs it: it imports what it names and calls it. Here the
program is only followed. A name stays a `Name`, a call becomes a `Made` that records what would have been called, and
nothing is imported, called or hashed. Only the operations that `torch.save` and `pickle.dump` need for weights and
their metadata are known; each makes at most one object, so memory is bounded by their number.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from peelbound.workers.checkpoint.strict_json import quoted
from peelbound.workers.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Name:
    """Something that unpickling would have imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


DICT = Name("builtins", "dict")


@dataclass(eq=False, slots=True, repr=False)
class Made:
    """What a call would have made.

    Attributes:
        by: what would have been called; `DICT` for a dictionary.
        args: with what.
        pairs: keys and values set on it, in order. Not a dictionary: keys made to collide would take for ever.
        state: what it would have been given besides.
    """

    by: Name
    args: tuple[Any, ...] = ()
    pairs: list[tuple[Any, Any]] | tuple[()] = ()
    state: Any = None


@dataclass(frozen=True, eq=False, slots=True, repr=False)
class Persistent:
    """A reference to something outside the pickle, by its id."""

    id: Any


def read_pickle(raw: bytes, *, file: str, operations: int, known: Callable[[Name], bool], remedy: str) -> Any:
    """What the pickle describes: plain values, tuples, lists, `Name`, `Made` and `Persistent`.

    Args:
        raw: the pickle.
        file: where it came from, for messages.
        operations: how many it may have.
        known: whether a name may occur at all. Nothing would happen if others did; but whoever wrote them wanted
            something to happen, and should hear that it did not.
        remedy: for messages.

    Raises:
        CheckpointError: ``checkpoint-pickle``: it names what no checkpoint needs; ``checkpoint-torch-invalid``: it is
            broken, has too many operations, or some of a kind that none of its kind has.
    """
    machine = _Machine(known)
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(BytesIO(raw))):
            if count >= operations:
                raise _NotData(f"it has more than {operations:,} operations")
            step = _STEPS.get(operation.name)
            if step is None:
                raise _NotData(f"it has the operation {operation.name}, which no checkpoint needs")
            step(machine, argument)
        return machine.result()
    except _UnknownName as error:
        raise CheckpointError(
            f"{file} is a pickle that asks for {quoted(str(error.name))}, which weights have no need of; none of it "
            "was run.",
            slug="checkpoint-pickle",
            remedy=remedy,
            pointer="/checkpoint",
        ) from None
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        # genops raises ValueError; the others are a stack that is too short or holds what the operation is not for.
        problem = str(error) if isinstance(error, _NotData) else f"its pickle is broken ({quoted(str(error))})"
        raise CheckpointError(
            f"{file} cannot be read: {problem}.",
            slug="checkpoint-torch-invalid",
            remedy=remedy,
            pointer="/checkpoint",
        ) from None


class _NotData(ValueError):
    """A well-formed pickle of something else."""


class _UnknownName(Exception):
    def __init__(self, name: Name) -> None:
        super().__init__(str(name))
        self.name = name


class _Machine:
    """The stack, its marks and the memo."""

    def __init__(self, known: Callable[[Name], bool]) -> None:
        self._known = known
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def result(self) -> Any:
        if self.marked or len(self.stack) != 1:
            raise _NotData("its pickle does not end with one object")
        return self.stack[0]

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marked.pop()
        return items

    def tuple_since_mark(self) -> None:
        items = tuple(self.since_mark())
        self.stack.append(items)

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise _NotData("a name in its pickle is none")
        found = Name(module, name)
        if not self._known(found):
            raise _UnknownName(found)
        self.stack.append(found)

    def call(self) -> None:
        args, by = self.stack.pop(), self.stack.pop()
        if not isinstance(by, Name) or not isinstance(args, tuple):
            raise _NotData("its pickle calls what is not a name")
        self.stack.append(Made(by, args))

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise _NotData("its pickle appends to what is not a list")
        target.extend(items)

    def set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, Made) or len(items) % 2:
            raise _NotData("its pickle sets items of what is not a dictionary")
        if isinstance(target.pairs, tuple):  # most have none, and a list for each would double what hostile ones take
            target.pairs = []
        target.pairs.extend(zip(items[::2], items[1::2], strict=True))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, Made):
            raise _NotData("its pickle gives a state to what has none")
        target.state = state

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise _NotData(f"its pickle refers to object {index}, which it has not made")
        self.stack.append(self.memo[index])

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise _NotData("its pickle takes more than there is")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(items)


def _push(machine: _Machine, argument: Any) -> None:
    machine.stack.append(argument)


def _pass(machine: _Machine, argument: Any) -> None:
    """Protocol, frames, and the end, after which `genops` stops."""


def _global(machine: _Machine, argument: str) -> None:
    module, _, name = argument.partition(" ")
    machine.name(module, name)


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.name(module, name)


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _pass,
    "FRAME": _pass,
    "STOP": _pass,
    "MARK": lambda m, _: m.mark(),
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "BININT": _push,
    "BININT1": _push,
    "BININT2": _push,
    "LONG1": _push,
    "BINFLOAT": _push,
    "BINUNICODE": _push,
    "SHORT_BINUNICODE": _push,
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "TUPLE": lambda m, _: m.tuple_since_mark(),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "APPEND": lambda m, _: m.append([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append(m.since_mark()),
    "EMPTY_DICT": lambda m, _: m.stack.append(Made(DICT)),
    "SETITEM": lambda m, _: m.set([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m.set(m.since_mark()),
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": lambda m, _: m.call(),
    "NEWOBJ": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.stack.append(Persistent(m.stack.pop())),
    "BINPUT": lambda m, index: m.put(index),
    "LONG_BINPUT": lambda m, index: m.put(index),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    "BINGET": lambda m, index: m.get(index),
    "LONG_BINGET": lambda m, index: m.get(index),
}
"""What each operation does (CPython, Lib/pickletools.py)."""
