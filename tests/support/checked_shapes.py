"""Check the shapes and types of arguments and results while tests run, in long tests at some calls only.

A small alignment makes 60,000 calls, and to check all of them takes half as long again. A function with a wrong shape
has it at its first calls or at many of them.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jaxtyping
from jaxtyping import install_import_hook

_FIRST, _EVERY = 20, 61
"""A long test checks the first calls of each function, and one of so many afterwards: a prime, which has no step in
common with loops within loops."""
_TYPECHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"  # an int may be given for a float

_jaxtyped = jaxtyping.jaxtyped


@dataclass
class _Test:
    number: int = 0
    every_call: bool = True


_running = _Test()


def begin_test(*, every_call: bool) -> None:
    """Count the calls of every function from 0, and check all of them or some."""
    _running.number += 1
    _running.every_call = every_call


def check_shapes(modules: Sequence[str]) -> None:
    """Check functions and records of these packages; only modules that are imported later are checked."""
    jaxtyping.jaxtyped = _sampled  # type: ignore[assignment]  # the decorator that the hook puts in by this name
    install_import_hook(modules, _TYPECHECKER)


def _sampled(*, typechecker: Any) -> Callable[[Any], Any]:
    def decorate(decorated: Any) -> Any:
        if not inspect.isclass(decorated):
            return _some_calls(decorated, _jaxtyped(decorated, typechecker=typechecker))
        record: Any = decorated
        plain = record.__init__
        _jaxtyped(decorated, typechecker=typechecker)
        if record.__init__ is not plain:  # a dataclass
            record.__init__ = _some_calls(plain, record.__init__)
        return decorated

    return decorate


def _some_calls(plain: Callable[..., Any], checked: Callable[..., Any]) -> Callable[..., Any]:
    calls = test = 0

    @functools.wraps(plain)
    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls, test
        if test != _running.number:
            calls, test = 0, _running.number
        calls += 1
        if calls <= _FIRST or calls % _EVERY == 0 or _running.every_call:
            return checked(*arguments, **options)
        return plain(*arguments, **options)

    return call
