# SPDX-License-Identifier: Apache-2.0
"""What torch loads is rebuilt of plain types, in bounded time, or refused."""

import time
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from mmcarafe.checkpoint.rebuilding import rebuild
from mmcarafe.errors import CheckpointError


def nested(part, times: int, join) -> object:
    for _ in range(times):
        part = join(part)
    return part


def test_a_training_checkpoint_is_the_same_afterwards():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    content = dict(
        state_dict=model.state_dict(),
        parameters=dict(model.named_parameters()),
        meta=dict(epoch=1, classes=("a", "b"), seed=None, score=np.float64(0.5), size=torch.Size([2])),
        milestones=Counter([1, 1, 2]),
        numbers=[True, 0.5, 1j, b"bytes", {1, (2, 3)}, np.arange(3), torch.float16, torch.device("cpu")],
    )
    copy = rebuild(content)
    assert copy["state_dict"]._metadata == content["state_dict"]._metadata
    assert list(copy["state_dict"]) == list(content["state_dict"])
    assert all(torch.equal(copy["state_dict"][key], value) for key, value in content["state_dict"].items())
    assert {type(value) for value in copy["parameters"].values()} == {torch.Tensor}
    assert copy["meta"] == content["meta"] and type(copy["meta"]["score"]) is np.float64
    assert copy["milestones"] == content["milestones"] and type(copy["milestones"]) is Counter
    assert [type(value) for value in copy["numbers"]] == [type(value) for value in content["numbers"]]
    assert copy["numbers"][4] == {1, (2, 3)}


def test_what_is_shared_stays_shared():
    weight = torch.ones(3, requires_grad=True)
    copy = rebuild(dict(a=weight, b=weight, c=weight.data[:2], d=[(row := [1]), row]))
    assert copy["a"] is copy["b"] and not copy["a"].requires_grad
    assert copy["a"].data_ptr() == copy["c"].data_ptr() == weight.data_ptr()
    assert copy["d"][0] is copy["d"][1] is not row


def test_circles():
    row, table = [], {}
    row.append((1, (row, table)))
    table["row"] = table[0] = row
    copy = rebuild(row)
    assert copy is not row
    assert copy[0][1][0] is copy
    assert copy[0][1][1]["row"] is copy[0][1][1][0] is copy


@pytest.mark.parametrize(
    "content",
    [
        nested([], 60, lambda part: [part, part]),
        nested((), 60, lambda part: (part, part)),
        nested((), 60, lambda part: ([part], {0: part, 1: part})),
        nested([], 10**5, lambda part: [part]),
        nested((), 10**5, lambda part: (part,)),
        nested({}, 10**5, lambda part: {"key": part}),
    ],
    ids=["lists", "tuples", "mixed", "deep-lists", "deep-tuples", "deep-dicts"],
)
def test_nesting_takes_bounded_time(content):
    started = time.process_time()
    assert type(rebuild(content)) is type(content)
    assert time.process_time() - started < 5


def test_a_tuple_of_many_lists_that_hold_it_takes_bounded_time():
    rows = [[] for _ in range(10**5)]
    whole = tuple(rows)
    for row in rows:
        row.append(whole)
    started = time.process_time()
    copy = rebuild(whole)
    assert copy[0][0] is copy[-1][0] is copy
    assert time.process_time() - started < 5


def attributed(value, **attributes):
    vars(value).update(attributes)
    return value


@pytest.mark.parametrize(
    "value",
    [
        attributed(torch.ones(1), isfinite=torch.Tensor),
        attributed(nn.Parameter(torch.ones(1)), note="harmless"),
        attributed(OrderedDict(a=1), items=OrderedDict),
        attributed(OrderedDict(a=1), _metadata=5),
        attributed(OrderedDict(a=1), _metadata=attributed(OrderedDict(), get=print)),
        attributed(Counter(a=1), items=Counter),
        torch.Tensor,
        print,
        nn.Linear(1, 1),
        nn.Buffer(torch.ones(1)).as_subclass(type("Own", (torch.Tensor,), {})),
        torch.ones(1).untyped_storage(),
        HistoryBuffer,
        range(3),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("place", [lambda x: x, lambda x: {"a": [x]}, lambda x: (1, (x,))])
def test_anything_else_is_refused(value, place):
    with pytest.raises(CheckpointError, match=r"^it (holds|sets attributes of) a .*; only data is read"):
        rebuild(place(value))


def test_hooks_of_a_file_are_left_out():
    weight = torch.ones(1, requires_grad=True)
    weight._backward_hooks = OrderedDict({0: torch.Tensor})
    assert rebuild(weight)._backward_hooks is None


def test_what_fsdp_notes_of_a_tensor_is_left_out():
    assert vars(rebuild(attributed(torch.ones(1), _has_been_cloned=True))) == {}
