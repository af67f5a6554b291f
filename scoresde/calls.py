"""Objects named by the calls that build them.

Configurations name parts as Python would:

    config.sde = "VPSDE(beta_max=20.0)"
    config.objective = "DSM(weighting=edm, times=LogNormalTimes(mean=-1.2, std=1.2))"

`build` reads such a call. It takes names of this library and literals, and runs nothing else; what
reads data it runs only where a data set is wanted.
"""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Iterable, Mapping
from itertools import chain, repeat
from types import FunctionType, UnionType
from typing import Any, TypeVar, get_args

import scoresde
from scoresde import chains, data, nets, training
from scoresde.grids import Grid

T = TypeVar("T")

_FUNCTIONS = (
    *(data.digits, data.moons, data.spirals, data.rings, data.gaussians8, data.checkerboard),
    *(data.npy, data.npz, data.idx, data.cifar10),
    *(nets.ddpm, nets.ddpmpp, nets.ncsnpp),
    *(data.images, data.audio, data.series, data.table),
    *(training.sigma2, training.likelihood, training.edm, training.velocity),
    *(scoresde.feed_t, scoresde.feed_999t, scoresde.feed_log_sigma),
    *(chains.feed_index, chains.variational, chains.annealed_langevin, chains.ncsnv2_sampler),
)


def build(call: str, kind: type[T], **given: Any) -> T:
    """Build the object that a call names, such as "DPMSolverPP(order=3)".

    Args:
        call: a name of the library, or a call of one with literals, names and calls as arguments.
        kind: the type that the result must have.
        given: further keyword arguments of the outermost call, where its signature has them.

    Raises:
        ValueError: text that is no such call; a name or an argument that does not exist, with the
            nearest of the kind that does; a result of another type; what the constructor itself
            refuses.
    """
    try:
        tree = ast.parse(call, mode="eval").body
    except SyntaxError:
        raise ValueError(f"{call!r} is not a call such as 'VPSDE(beta_max=20.0)'") from None
    result = _evaluate(tree, call, kind, given)
    if isinstance(result, kind):
        return result
    if isinstance(tree, ast.Name):
        raise ValueError(f"{call!r} is a name; write the call, such as '{call}()'")
    raise ValueError(f"{call!r} is a {type(result).__name__}, but a {_told(kind)} is needed")


def _names() -> dict[str, Any]:
    """Return what a configuration may name: the library's classes and grids, and some functions."""
    modules = (scoresde, chains, data, nets, training)
    known = {k: v for m in modules for k, v in vars(m).items() if isinstance(v, type | Grid)}
    return known | {function.__name__: function for function in _FUNCTIONS}


def _evaluate(tree: ast.expr, call: str, kind: Any, given: Mapping[str, Any]) -> Any:
    match tree:
        case ast.Name(id=name):
            return _look_up(name, call, kind)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            function = _look_up(name, call, kind)
            if not callable(function):
                raise ValueError(f"{call!r}: {name} is a value; write the name alone")
            if kind is not data.Dataset and _gives(function, data.Dataset):
                # it might read and write files before it is found to be of the wrong kind
                raise ValueError(f"{call!r}: {name} makes a data set, and none is needed there")
            parameters = inspect.signature(function, eval_str=True).parameters
            kinds = {argument: p.annotation for argument, p in parameters.items()}
            named = {k: v for k, v in given.items() if k in parameters}
            for argument, value in ((str(k.arg), k.value) for k in keywords):
                if argument not in parameters:
                    nearest = _nearest(argument, parameters)
                    raise ValueError(f"{call!r}: {name} has no argument {argument!r}{nearest}")
                named[argument] = _evaluate(value, call, kinds[argument], {})
            in_order = zip(args, chain(kinds.values(), repeat(object)), strict=False)
            positional = [_evaluate(value, call, kind, {}) for value, kind in in_order]
            try:
                return function(*positional, **named)
            except TypeError as error:
                raise ValueError(f"{call!r}: {error}") from error
    try:
        return ast.literal_eval(tree)
    except ValueError:
        raise ValueError(
            f"{call!r}: {ast.unparse(tree)!r} is neither a literal nor a call of the library"
        ) from None


def _look_up(name: str, call: str, kind: Any) -> Any:
    names = _names()
    if name not in names:
        wanted = [known for known, value in names.items() if _gives(value, kind)]
        of_the_kind = f"; a {_told(kind)} is needed" if isinstance(kind, type | UnionType) else ""
        nearest = _nearest(name, wanted) or of_the_kind
        raise ValueError(f"{call!r}: the library has no {name!r}{nearest}")
    return names[name]


def _gives(value: Any, kind: Any) -> bool:
    """Return whether a value is of a kind, or makes one when it is called."""
    if not isinstance(kind, type | UnionType):  # an alias, of which this is not asked
        return True
    made = value
    if isinstance(value, FunctionType):
        made = inspect.signature(value, eval_str=True).return_annotation
    return isinstance(value, kind) or (isinstance(made, type) and issubclass(made, kind))


def _told(kind: Any) -> str:
    return " or ".join(part.__name__ for part in get_args(kind) or (kind,))


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
