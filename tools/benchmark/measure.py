# SPDX-License-Identifier: Apache-2.0
"""Time and memory of every row on every shape, layout, dtype and pass.

Rows run in turn, round after round, so that drift of the machine meets all alike. torch's ``benchmark.Timer``
and Triton's ``do_bench`` repeat one function before they go on to the next, so neither is used.
"""

import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import product
from statistics import median

import torch
from benchmark.forms import Inputs
from benchmark.progress import Progress, expected_seconds
from benchmark.rows import BOTH, PASSES, SHAPES, Row, rows_of
from torch import Tensor

from mmcarafe.ops import use_implementation

SLOW_MS = 500
"""A row that is slower is timed in SLOW_ROUNDS rounds."""

SLOW_ROUNDS = 3


@dataclass
class Call:
    """One call of a row on inputs, with its backward pass if there is a gradient to send back."""

    function: Callable[[Inputs | None], Tensor]
    row: Row | None = None
    inputs: Inputs | None = None
    grad: Tensor | None = None

    def chosen(self, device: str):
        """Return the context in which the row's implementation of the operator runs, if it has one."""
        named = self.row and self.row.implementation
        return use_implementation(device, named) if named else nullcontext()


def in_turn(
    device,
    rows: dict,
    rounds: int,
    left_out: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> dict:
    """Time each row in every round; return medians and spread of one call, milliseconds.

    ``device`` gives the clocks that time a row: on a GPU a second one, as called from Python.
    """
    warm = device.warm_rounds
    clocks = {}
    for name, calls in rows.items():
        try:
            clocks[name] = device.clocks(calls)
        except torch.OutOfMemoryError:
            left_out[name] = "out of memory"
    times = {name: [] for name in clocks}
    took = {}

    def count(name: str) -> int:
        slow = len(times[name]) > warm and times[name][-1][0] >= SLOW_MS  # the first calls compile
        return warm + (min(rounds, SLOW_ROUNDS) if slow else rounds)

    for i in range(warm + rounds):
        for name, row in clocks.items():
            if i >= count(name):
                continue
            start = time.perf_counter()
            times[name].append([clock() for clock in row])
            took[name] = time.perf_counter() - start
            if progress:
                # the first calls compile, and say little of what is to come
                left = sum(took[n] * (count(n) - len(times[n])) for n in clocks) if i > warm else None
                progress.within(left)
    results = {}
    for name, rows_times in times.items():
        ms, *others = zip(*rows_times[warm:], strict=True)
        results[name] = dict(ms=median(ms), least=min(ms), most=max(ms), calls=len(ms))
        for called in others:
            results[name]["called_ms"] = median(called)
    return results


def measure(
    device, args: Namespace, progress: Progress, rows: Callable = rows_of
) -> Iterator[tuple[list[dict], list[dict]]]:
    """Yield results, and what is left out, of each shape, layout and dtype, on a ``Cpu`` or a ``Gpu``."""
    for shape, layout, dtype in product(args.shapes, args.layouts, args.dtypes):
        results, left_out = [], []
        for what in PASSES:
            case = dict(shape=shape, layout=layout, dtype=dtype, what=what)
            progress.begin(", ".join(case.values()))
            calls, others = calls_of(device, args.peers, **case, rows=rows)
            for name, result in in_turn(device, calls, args.rounds, others, progress).items():
                call = calls[name][0]
                result |= device.rates(calls[name], result["ms"])
                if args.memory and what != BOTH and (extra := device.extra_memory(call)) is not None:
                    result["extra"] = extra / call.inputs.output_bytes
                results.append(case | dict(row=name) | result)
            left_out += [case | dict(row=name, why=why) for name, why in others.items()]
        yield results, left_out


def expected_seconds_of(args: Namespace) -> list[float]:
    """Guess how long each case of :func:`measure` takes."""
    return [
        expected_seconds(shape, layout, what, args.peers)
        for shape, layout, _, what in product(args.shapes, args.layouts, args.dtypes, PASSES)
    ]


def calls_of(
    device, peers: str, shape: str, layout: str, dtype: str, what: str, rows: Callable = rows_of
) -> tuple[dict[str, list[Call]], dict[str, str]]:
    """Return each row's calls, one for each set of inputs, and why others are left out."""
    kind = dict(device=device.type, dtype=getattr(torch, dtype))
    draw = partial(Inputs.draw, SHAPES[shape], layout, what == BOTH, **kind)
    inputs = [draw()]
    inputs += [draw() for _ in range(device.sets(inputs[0]) - 1)]
    found, left_out = rows(device.name, inputs[0], peers, shape, layout)
    grads = [i.output_grad() if what == BOTH else None for i in inputs]
    calls = {}
    for name, row in found.items():
        function = row.make(inputs[0])
        calls[name] = [Call(function, row, i, grad) for i, grad in zip(inputs, grads, strict=True)]
    return calls, left_out
