"""An exhaustive explorer of small concurrent programs on a weakly ordered memory.

A model is a few threads, each a list of instructions on shared locations. Every interleaving is tried, and
for every load every value that the C11 memory model lets it return: memory keeps, for each location, all
values ever stored there, in order, and each thread has a view, the oldest of them that it may still see. A
load picks any value from its view on. A release store carries its thread's view along, an acquire load of it
takes that over; a sequentially consistent fence exchanges views with all other fences, and a
read-modify-write always takes the newest value. (This is the view semantics of Kang et al., "A promising
semantics for relaxed-memory concurrency", POPL 2017, without promises: stores become visible in
program order to loads that ask for it, and no load sees a value that is yet to be stored. Stores to
one location are ordered as they are made.)

Threads may also sleep in the kernel on a word, as futex() has it, and be killed at any step. A state in
which a thread can do nothing and is not at its end is a deadlock; a model says which of those, and which end
states, are wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

Locals = dict[str, int]
Value = int | Callable[[Locals], int]


class Violation(AssertionError):  # noqa: N818 - the field's word
    """A reachable state that the model forbids, and the steps that lead there."""


@dataclass(frozen=True)
class Load:
    """``into`` = a value of ``location`` that the thread's view allows."""

    location: str
    into: str
    acquire: bool = False


@dataclass(frozen=True)
class Store:
    location: str
    value: Value
    release: bool = False


@dataclass(frozen=True)
class Update:
    """A read-modify-write, acquire and release unless ``relaxed``: ``into`` is the old value. Where ``when`` is
    not true of it, nothing is stored, and ``failed`` is 1."""

    location: str
    change: Callable[[int, Locals], int]
    into: str = "old"
    when: Callable[[int, Locals], bool] = lambda old, known: True
    relaxed: bool = False


@dataclass(frozen=True)
class Fence:
    """atomic_thread_fence(seq_cst)"""


@dataclass(frozen=True)
class ReleaseFence:
    """atomic_thread_fence(release): stores after it carry what the thread knew here."""


@dataclass(frozen=True)
class AcquireFence:
    """atomic_thread_fence(acquire): loads before it bring what their stores carried."""


@dataclass(frozen=True)
class Sleep:
    """futex wait: goes on at once unless ``location`` holds this value now."""

    location: str
    expected: Value


@dataclass(frozen=True)
class Wake:
    """futex wake of all who sleep there."""

    location: str


@dataclass(frozen=True)
class Let:
    """``into`` = value, of what the thread knows."""

    into: str
    value: Value


@dataclass(frozen=True)
class Jump:
    """Go to a label, if the condition holds."""

    label: str
    condition: Callable[[Locals], bool] = lambda known: True


@dataclass(frozen=True)
class Label:
    name: str


@dataclass(frozen=True)
class Forget:
    """The thread needs nothing that it knows any more: fewer states to visit."""


@dataclass(frozen=True)
class Check:
    """What must be true of what the thread knows."""

    holds: Callable[[Locals], bool]
    what: str


Instruction = (
    Load
    | Store
    | Update
    | Fence
    | ReleaseFence
    | AcquireFence
    | Sleep
    | Wake
    | Let
    | Jump
    | Label
    | Check
    | Forget
)


@dataclass(frozen=True)
class Thread:
    name: str
    program: tuple[Instruction, ...]
    mortal: bool = False
    """May be killed at any step."""


View = tuple[int, ...]  # for each location the index of the oldest value that may still be seen


class _Message(NamedTuple):
    value: int
    view: View | None  # what a release store carries


class _Thread(NamedTuple):
    at: int
    known: tuple[tuple[str, int], ...]
    view: View
    released: View | None  # the view at the last release fence
    acquirable: View | None  # what relaxed loads brought, for the next acquire fence
    asleep: str | None
    dead: bool


class _State(NamedTuple):
    memory: tuple[tuple[_Message, ...], ...]
    fenced: View
    threads: tuple[_Thread, ...]


def _join(one: View, other: View | None) -> View:
    return one if other is None else tuple(map(max, one, other))


class Model:
    """Threads over locations with their first values.

    :param wrong: says what is wrong with a state in which no thread can go on: of the values last stored,
        what each thread knows, who is asleep, who was killed. None: it is fine.
    :param deaths: how many mortal threads may be killed in one run.
    """

    def __init__(
        self,
        locations: dict[str, int],
        threads: list[Thread],
        wrong: Callable[[End], str | None],
        deaths: int = 1,
    ) -> None:
        self._names = list(locations)
        self._first = tuple((_Message(value, None),) for value in locations.values())
        self._threads = threads
        self._wrong = wrong
        self._deaths = deaths
        self._labels = [
            {step.name: at for at, step in enumerate(thread.program) if isinstance(step, Label)}
            for thread in threads
        ]

    def explore(self, limit: int = 2_000_000) -> int:
        """Visit every reachable state. Returns how many there are.

        :raises Violation: one is wrong.
        """
        zero = (0,) * len(self._names)
        first = _State(
            self._first,
            zero,
            tuple(_Thread(0, (), zero, None, None, None, False) for _ in self._threads),
        )
        first = self._settle(first)
        came_from: dict[_State, tuple[_State, str] | None] = {first: None}
        todo = [first]
        while todo:
            state = todo.pop()
            moved = False
            try:
                for what, step in self._steps(state):
                    moved = True
                    after = self._forget(self._settle(step))
                    if after not in came_from:
                        came_from[after] = (state, what)
                        todo.append(after)
            except Violation as violation:
                raise Violation(f"{violation}\n{self._path(state, came_from)}") from None
            if not moved and (wrong := self._wrong(End(self, state))):
                raise Violation(f"{wrong}\n{self._path(state, came_from)}")
            assert len(came_from) <= limit, "the model is too large to explore"
        return len(came_from)

    def _settle(self, state: _State) -> _State:
        """Take all steps that concern nobody else, so that no interleaving of them is tried."""
        for number, now in enumerate(state.threads):
            settled = now if now.dead else self._run_local(number, now)
            if settled is not now:
                state = self._with(state, number, settled)
        return state

    def _run_local(self, number: int, now: _Thread) -> _Thread:
        program = self._threads[number].program
        while now.at < len(program):
            step, known = program[now.at], dict(now.known)
            match step:
                case Jump(label, condition) if condition(known):
                    now = now._replace(at=self._labels[number][label])
                    continue
                case Let(into, value):
                    now = self._learn(now, into, _value(value, known))
                case Check(holds, what):
                    if not holds(known):
                        raise Violation(f"{self._threads[number].name}: {what}, with {known}")
                case Forget():
                    now = now._replace(known=())
                case Jump() | Label():
                    pass
                case _:
                    return now
            now = now._replace(at=now.at + 1)
        return now

    def _forget(self, state: _State) -> _State:
        """The same state without the values that no thread can see any more, so that a thread that goes round in
        a loop comes back to where it was."""
        live = [
            now
            for thread, now in zip(self._threads, state.threads, strict=True)
            if not now.dead and now.at < len(thread.program)
        ]
        base = tuple(
            min((now.view[place] for now in live), default=len(history) - 1)
            for place, history in enumerate(state.memory)
        )
        if not any(base) and len(live) == len(state.threads):
            return state

        def shift(view: View | None) -> View | None:
            return view and tuple(max(index - by, 0) for index, by in zip(view, base, strict=True))

        return _State(
            tuple(
                tuple(_Message(message.value, shift(message.view)) for message in history[by:])
                for history, by in zip(state.memory, base, strict=True)
            ),
            shift(state.fenced) or (),
            tuple(
                now._replace(
                    view=shift(now.view) or (),
                    released=shift(now.released),
                    acquirable=shift(now.acquirable),
                )
                if now in live
                else now._replace(view=(0,) * len(base), released=None, acquirable=None)
                for now in state.threads
            ),
        )

    def _path(self, state: _State, came_from: dict[_State, tuple[_State, str] | None]) -> str:
        steps: list[str] = []
        while (origin := came_from[state]) is not None:
            state, what = origin
            steps.append(what)
        return "\n".join(reversed(steps))

    def _steps(self, state: _State) -> Iterator[tuple[str, _State]]:
        killed = sum(thread.dead for thread in state.threads)
        for number, (thread, now) in enumerate(zip(self._threads, state.threads, strict=True)):
            if now.dead or now.at == len(thread.program):
                continue
            if thread.mortal and killed < self._deaths:
                dead = now._replace(dead=True, asleep=None)
                yield f"{thread.name} is killed", self._with(state, number, dead)
            if now.asleep is None:
                step = thread.program[now.at]
                for after in self._execute(state, number, now, step):
                    yield f"{thread.name}: {step}", after

    @staticmethod
    def _with(state: _State, number: int, thread: _Thread, **other: Any) -> _State:
        threads = (*state.threads[:number], thread, *state.threads[number + 1 :])
        return state._replace(threads=threads, **other)

    def _execute(
        self, state: _State, number: int, now: _Thread, step: Instruction
    ) -> Iterator[_State]:
        known = dict(now.known)
        on = now._replace(at=now.at + 1)
        match step:
            case Load(location, into, acquire):
                place = self._names.index(location)
                history = state.memory[place]
                for index in range(now.view[place], len(history)):
                    yield self._with(
                        state, number, self._saw(on, place, index, history[index], into, acquire)
                    )
            case Store(location, value, release):
                place = self._names.index(location)
                yield self._stored(state, number, on, place, _value(value, known), release)
            case Update(location, change, into, when, relaxed):
                place = self._names.index(location)
                history = state.memory[place]
                old = history[-1]
                seen = self._saw(on, place, len(history) - 1, old, into, not relaxed)
                if when(old.value, known):
                    seen = self._learn(seen, "failed", 0)
                    new = change(old.value, dict(seen.known))
                    # an update goes on with the release sequence of the store that it read
                    yield self._stored(
                        state, number, seen, place, new, not relaxed, carried=old.view
                    )
                else:
                    yield self._with(state, number, self._learn(seen, "failed", 1))
            case Fence():
                view = _join(_join(now.view, now.acquirable), state.fenced)
                yield self._with(state, number, on._replace(view=view, released=view), fenced=view)
            case ReleaseFence():
                yield self._with(state, number, on._replace(released=now.view))
            case AcquireFence():
                yield self._with(state, number, on._replace(view=_join(now.view, now.acquirable)))
            case Sleep(location, expected):
                newest = state.memory[self._names.index(location)][-1].value
                if newest == _value(expected, known):
                    on = on._replace(asleep=location)
                yield self._with(state, number, on)
            case Wake(location):
                woken = tuple(
                    thread._replace(asleep=None) if thread.asleep == location else thread
                    for thread in state.threads
                )
                yield self._with(state._replace(threads=woken), number, on)

    @staticmethod
    def _learn(thread: _Thread, into: str, value: int) -> _Thread:
        known = dict(thread.known)
        known[into] = value
        return thread._replace(known=tuple(sorted(known.items())))

    def _saw(
        self, thread: _Thread, place: int, index: int, message: _Message, into: str, acquire: bool
    ) -> _Thread:
        view = (*thread.view[:place], index, *thread.view[place + 1 :])
        acquirable = thread.acquirable
        if message.view is not None:
            if acquire:
                view = _join(view, message.view)
            else:
                acquirable = _join(message.view, acquirable)
        return self._learn(thread._replace(view=view, acquirable=acquirable), into, message.value)

    def _stored(
        self,
        state: _State,
        number: int,
        thread: _Thread,
        place: int,
        value: int,
        release: bool,
        carried: View | None = None,
    ) -> _State:
        history = state.memory[place]
        view = (*thread.view[:place], len(history), *thread.view[place + 1 :])
        message = _join(view, carried) if release else carried
        if thread.released is not None:
            message = _join(thread.released, message)
        memory = (
            *state.memory[:place],
            (*history, _Message(value, message)),
            *state.memory[place + 1 :],
        )
        return self._with(state, number, thread._replace(view=view), memory=memory)


def _value(value: Value, known: Locals) -> int:
    return value(known) if callable(value) else value


class End:
    """A state in which no thread can go on."""

    def __init__(self, model: Model, state: _State) -> None:
        self.memory = {
            name: history[-1].value
            for name, history in zip(model._names, state.memory, strict=True)
        }
        self.known: dict[str, Locals] = {}
        self.asleep: set[str] = set()
        self.dead: set[str] = set()
        for thread, now in zip(model._threads, state.threads, strict=True):
            self.known[thread.name] = dict(now.known)
            if now.asleep is not None:
                self.asleep.add(thread.name)
            if now.dead:
                self.dead.add(thread.name)
