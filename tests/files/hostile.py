"""Files that nobody should be able to do harm with: what is in them, and what is said about each."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lightning_channels.errors import ChoiceError, ConfigError, StructureError
from tests.files.nets import GROUPED, HEADS, STEM

GONE = object()
"""As a value: the key or entry is removed."""

RUN = "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [EXECUTED]]"

TEXTS: dict[str, tuple[str, str | bytes, str]] = {
    # name: (ending, content, part of the message)
    "a tag that runs something": ("yaml", f"a: {RUN}", "it has the tag 'tag:yaml.org,2002:python/object/apply:pathlib"),
    "a tag that names something": ("yaml", "a: !!python/name:os.system ''", "it has the tag"),
    "a tag of a set": ("yaml", "a: !!set {x, y}", "it has the tag"),
    "aliases that explode": (
        "yaml",
        "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)),
        "it holds more than 1,000,000 values, counting what its aliases stand for",
    ),
    "merges that explode": (
        "yaml",
        "a0: &a0 {k: 1, l: 2}\n"
        + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: 1}}\n" for i in range(1, 12)),
        "it holds more than 1,000,000 values",
    ),
    "an alias to itself": ("yaml", "a: &a [*a, *a]", "&a contains itself"),
    "deep YAML": ("yaml", "[" * 100_000, "it is nested more than 32 levels deep"),
    "deep blocks": ("yaml", "- " * 5000 + "x", "it is nested more than 32 levels deep"),
    "deep JSON": ("json", "[" * 100_000 + "]" * 100_000, "recursion"),
    "rather deep JSON": ("json", "[" * 40 + "]" * 40, "is nested more than 32 levels deep"),
    "wide JSON": ("json", "[" + "0," * 1_000_001 + "0]", "holds more than 1,000,000 values"),
    "a huge file": ("yaml", "a: " + "x" * (16 << 20), "is larger than 16 MiB"),
    "a huge number": ("yaml", "a: 0x" + "f" * 900, "['a'] is a whole number of more than 64 bits"),
    "a number that takes a square of time": ("yaml", "a: 1" + ":1" * 100_000, "a number of more than 1000 digits"),
    "too many digits": ("json", '{"a": ' + "9" * 5000 + "}", "Exceeds the limit"),
    "a key twice, YAML": ("yaml", "a: 1\nb: 2\na: 3\n", "the key 'a' is there twice"),
    "a key twice, JSON": ("json", '{"a": 1, "b": 2, "a": 3}', "the key 'a' is there twice"),
    "NaN, YAML": ("yaml", "a: .nan", "['a'] is nan; numbers must be finite"),
    "NaN, JSON": ("json", '{"a": NaN}', "NaN is no number of JSON's"),
    "infinity, YAML": ("yaml", "a: -.inf", "['a'] is -inf; numbers must be finite"),
    "infinity, JSON": ("json", '{"a": 1e999}', "['a'] is inf; numbers must be finite"),
    "a date": ("yaml", "a: 2001-01-01", "['a'] holds a date"),
    "keys that aren't strings": ("yaml", "1: 2", "has the key 1; keys must be strings"),
    "a list as a key": ("yaml", "? [a, b]\n: 1\n", "unhashable key"),
    "two documents": ("yaml", "a: 1\n---\nb: 2\n", "expected a single document"),
    "an alias to nothing": ("yaml", "a: *b", "undefined alias"),
    "bytes": ("yaml", b"\xff\xfe\x00", "is not a text file in UTF-8"),
    "a zero byte": ("yaml", "a: \0", "is not valid YAML"),
    "half a file": ("json", '{"version": 1, "template": {', "is not valid JSON"),
}


def planted(content: str | bytes, sentinel: Path) -> bytes:
    """What of :data:`TEXTS` to write into a file; where its code is run, ``sentinel`` is there afterwards."""
    return content if isinstance(content, bytes) else content.replace("EXECUTED", str(sentinel)).encode()


def dumped(data: Any, ending: str) -> str:
    """Data as JSON or as YAML."""
    return json.dumps(data) if ending == "json" else yaml.safe_dump(data)


class Edit(NamedTuple):
    """One change of good data."""

    path: tuple[Any, ...]
    value: Any
    error: type[Exception]
    message: str


def edited(data: dict[str, Any], edit: Edit) -> Any:
    """The data with the change."""
    data = copy.deepcopy(data)
    if not edit.path:
        return edit.value
    place: Any = data
    for part in edit.path[:-1]:
        place = place[part]
    last = edit.path[-1]
    if edit.value is GONE:
        del place[last]
    elif last == "+":
        place.append(edit.value)
    else:
        place[last] = edit.value
    return data


CONFIG = ("template", "channel_unit_cfg")
UNIT = (*CONFIG, "units")

OF_STRUCTURES: dict[str, Edit] = {
    "a list": Edit((), [1, 2], StructureError, "a structure must be a dict, got [1, 2]"),
    "text": Edit((), "structure", StructureError, "a structure must be a dict, got 'structure'"),
    "no version": Edit(
        ("version",), GONE, StructureError, "the structure has no 'version'; it needs the keys version, template,"
    ),
    "another version": Edit(
        ("version",), 10**9, StructureError, "the structure has version 1000000000; this release reads version 1"
    ),
    "a version that is a list": Edit(
        ("version",), [1], StructureError, "the structure has version [1]; this release reads version 1"
    ),
    "a key more": Edit(("_target_",), "os.system", StructureError, "a structure takes no key '_target_'"),
    "a template that is text": Edit(
        ("template",), "os.system", StructureError, "'template' of a structure must be a dict, got str"
    ),
    "no units": Edit(
        CONFIG,
        {"type": "SequentialMutableChannelUnit"},
        StructureError,
        "the structure's template must hold its units, a dict under",
    ),
    "units in another file": Edit(
        UNIT, "/etc/passwd.yaml", StructureError, "the structure's template must hold its units, a dict under"
    ),
    "a unit that is a list": Edit(
        (*UNIT, STEM), [1], StructureError, "the structure's template must hold its units, a dict under"
    ),
    "a choice for another unit": Edit(
        ("choices", "../stem"), 3, StructureError, "the structure has a choice for the unit '../stem', but no such unit"
    ),
    "a choice that is text": Edit(
        ("choices", STEM),
        "__class__",
        StructureError,
        "the structure's choice of 'stem_(0, 8)_8' must be a number, got",
    ),
    "a choice of nothing": Edit(
        ("choices", STEM), None, StructureError, "the structure's choice of 'stem_(0, 8)_8' must be a number, got None"
    ),
    "a choice that is true": Edit(
        ("choices", STEM), True, StructureError, "the structure's choice of 'stem_(0, 8)_8' must be a number, got True"
    ),
    "a choice out of range": Edit(
        ("choices", STEM), 10**9, ChoiceError, "the choice 1000000000 of unit 'stem_(0, 8)_8' is out of range"
    ),
    "a negative choice": Edit(
        ("choices", STEM), -1, ChoiceError, "the choice -1 of unit 'stem_(0, 8)_8' is out of range"
    ),
    "half a channel": Edit(("choices", STEM), 2.5, ChoiceError, "the choice 2.5 of unit 'stem_(0, 8)_8' is fractional"),
    "kept channels that are a list": Edit(
        ("kept",), [STEM], StructureError, "'kept' of a structure must be a dict, unit → channels, got list"
    ),
    "kept channels of another unit": Edit(
        ("kept",),
        {"stem_(0, 8)": [0]},
        StructureError,
        "names the unit 'stem_(0, 8)', which has no choice there; did you mean 'stem_(0, 8)_8'?",
    ),
    "kept channels that are text": Edit(
        ("kept",),
        {STEM: "0145"},
        StructureError,
        "'kept' of the structure must be a list of integers for 'stem_(0, 8)_8'",
    ),
    "a kept channel that is text": Edit(
        ("kept",),
        {STEM: ["os.system"]},
        StructureError,
        "must be a list of integers for 'stem_(0, 8)_8', got ['os",
    ),
    "a kept channel that is true": Edit(
        ("kept",), {STEM: [True, 4]}, StructureError, "must be a list of integers for 'stem_(0, 8)_8', got [True, 4]"
    ),
    "half a kept channel": Edit(
        ("kept",), {STEM: [0.5, 4]}, StructureError, "must be a list of integers for 'stem_(0, 8)_8', got [0.5, 4]"
    ),
    "kept channels of kept channels": Edit(
        ("kept",), {STEM: [[0], [4]]}, StructureError, "must be a list of integers for 'stem_(0, 8)_8', got [[0], [4]]"
    ),
    "no kept channels": Edit(("kept",), {STEM: []}, ChoiceError, "unit 'stem_(0, 8)_8' must keep at least one of"),
    "a kept channel out of range": Edit(
        ("kept",),
        {STEM: [3, 2**62]},
        ChoiceError,
        "unit 'stem_(0, 8)_8' has no channel 4611686018427387904;",
    ),
    "a huge kept channel": Edit(
        ("kept",), {STEM: [3, 10**30]}, ConfigError, f"['kept']['{STEM}'][1] is a whole number of more than 64 bits"
    ),
    "a negative kept channel": Edit(
        ("kept",), {STEM: [-4, 0]}, ChoiceError, "unit 'stem_(0, 8)_8' has no channel -4; allowed are 0 to 7"
    ),
    "a channel that is kept twice": Edit(
        ("kept",), {STEM: [1, 1, 5, 5]}, ChoiceError, "unit 'stem_(0, 8)_8' is asked to keep channel 1 twice"
    ),
    "kept channels that break groups": Edit(
        ("kept",), {STEM: [0, 5]}, ChoiceError, "every one of the 2 groups of unit 'stem_(0, 8)_8' must keep the same"
    ),
    "fewer kept channels than chosen": Edit(
        ("kept",), {STEM: [1, 5]}, ChoiceError, "unit 'stem_(0, 8)_8' has the choice 4 and keeps 2 channels"
    ),
    "all kept, and fewer chosen": Edit(
        ("kept",), {STEM: list(range(8))}, ChoiceError, "unit 'stem_(0, 8)_8' has the choice 4 and keeps 8 channels"
    ),
    "a good unit before a bad one": Edit(
        ("kept",), {STEM: [1, 2, 5, 6], HEADS: [4]}, ChoiceError, "unit 'mix.qkv_(0, 8)_4' has no channel 4"
    ),
    "an order of another unit": Edit(
        ("order",), {"../stem": [0]}, StructureError, "'order' of the structure names the unit '../stem', which"
    ),
    "an order that is a dict": Edit(
        ("order",), {STEM: {"0": 1}}, StructureError, "'order' of the structure must be a list of integers for 'stem_"
    ),
    "an order of too few": Edit(
        ("order",), {STEM: [0, 1]}, ChoiceError, "the order of unit 'stem_(0, 8)_8' must be a list of 4 integers, got 2"
    ),
    "an order of all groups' channels": Edit(
        ("order",), {STEM: list(range(8))}, ChoiceError, "'stem_(0, 8)_8' must be a list of 4 integers, got 8 values"
    ),
    "an order with a channel twice": Edit(
        ("order",), {STEM: [0, 1, 2, 2]}, ChoiceError, "the order of unit 'stem_(0, 8)_8' must name each of 0 to 3 once"
    ),
    "a good order before a bad one": Edit(
        ("order",),
        {STEM: [3, 2, 1, 0], HEADS: [9, 9, 9, 9]},
        ChoiceError,
        "'mix.qkv_(0, 8)_4' must name each of",
    ),
    "no fingerprint": Edit(("fingerprint",), {}, StructureError, "the structure's fingerprint has no 'tensors'"),
    "a fingerprint without classes": Edit(
        ("fingerprint", "classes"), GONE, StructureError, "the structure's fingerprint has no 'classes'"
    ),
    "a fingerprint with more": Edit(
        ("fingerprint", "code"), "os.system", StructureError, "the structure's fingerprint takes no key 'code'"
    ),
    "a shape that is text": Edit(
        ("fingerprint", "tensors", "stem.weight"),
        "8",
        StructureError,
        "'tensors' of the structure's fingerprint must be a dict, name → a list",
    ),
    "another shape": Edit(
        ("fingerprint", "tensors", "stem.weight"),
        [9, 3, 3, 3],
        StructureError,
        "the structure doesn't fit the model: 'stem_(0, 8)_8': stem.weight was",
    ),
    "a shape of fewer dims": Edit(
        ("fingerprint", "tensors", "stem.weight"),
        [],
        StructureError,
        "the structure doesn't fit the model: 'stem_(0, 8)_8': stem.weight was",
    ),
    "another class": Edit(
        ("fingerprint", "classes", "stem"),
        "Linear",
        StructureError,
        "the structure doesn't fit the model: 'stem_(0, 8)_8': stem was a Linear",
    ),
    "classes that are a list": Edit(
        ("fingerprint", "classes"),
        ["Conv2d"],
        StructureError,
        "'classes' of the structure's fingerprint must be a dict, name → a",
    ),
    "another integer": Edit(
        ("fingerprint", "attributes", "mix.heads"),
        5,
        StructureError,
        "the structure doesn't fit the model: 'mix.qkv_(0, 8)_4': mix.heads was",
    ),
    "no integers": Edit(
        ("fingerprint", "attributes"),
        GONE,
        StructureError,
        "the structure doesn't fit the model: 'mix.qkv_(0, 8)_4': mix.heads was",
    ),
    "a module less": Edit(
        (*UNIT, GROUPED, "channels", "input_related", 1),
        GONE,
        StructureError,
        "the channels of the structure's units were changed since it was made,",
    ),
    "a module of another unit": Edit(
        (*UNIT, "mix.out_(0, 8)_8", "channels", "input_related", 0, "name"),
        "mix.qkv",
        StructureError,
        "the channels of the structure's units were changed since it was made,",
    ),
    "exact, which it isn't": Edit(
        (*UNIT, GROUPED, "channels", "exact"),
        True,
        StructureError,
        "the channels of the structure's units were changed since it was made,",
    ),
    "another digest": Edit(
        ("fingerprint", "units"),
        "0" * 64,
        StructureError,
        "the channels of the structure's units were changed since it was made,",
    ),
}

OF_CHOICES: dict[str, tuple[Any, str]] = {
    "a list": ([1, 2], "must be a dict of unit name → choice, got list"),
    "text": ("os.system", "must be a dict of unit name → choice, got str"),
    "nothing": (None, "must be a dict of unit name → choice, got NoneType"),
    "a target": ({"_target_": "os.system"}, "'_target_' must be a number of channels or a ratio, got"),
    "a list of choices": (
        {STEM: [4]},
        "must be a number of channels or a ratio, got [4]",
    ),
    "a dict of choices": (
        {STEM: {"choice": 4}},
        "must be a number of channels or a ratio, got {'choice':",
    ),
    "a choice that is true": (
        {STEM: True},
        "must be a number of channels or a ratio, got True",
    ),
    "kept channels that are text": (
        {"choices": {STEM: 4}, "kept": "0145"},
        "'kept' of a structure must be a dict, unit → channels, got str",
    ),
    "kept channels of another unit": (
        {"choices": {STEM: 4}, "kept": {GROUPED: [0]}},
        f"'kept' of the structure names the unit '{GROUPED}', which has no choice there",
    ),
    "more kept channels than chosen": (
        {"choices": {STEM: 2}, "kept": {STEM: [0, 3, 4, 7]}},
        f"the structure has the choice 2 for the unit '{STEM}' and keeps 4 of its channels",
    ),
    "kept channels out of range": (
        {"choices": {STEM: 4}, "kept": {STEM: [0, 1, 2, 8]}},
        f"unit '{STEM}' has no channel 8; allowed are 0 to 7",
    ),
    "an unknown unit": ({"stem.__class__": 4}, "unknown unit 'stem.__class__'. The model has 6 units"),
    "a path": ({"../../stem_(0, 8)_8": 4}, "unknown unit '../../stem_(0, 8)_8'; did you mean 'stem_(0, 8)_8'? The"),
    "out of range": ({STEM: 10**9}, "the choice 1000000000 of unit 'stem_(0, 8)_8' is out of range"),
    "zero": ({STEM: 0}, "the choice 0 of unit 'stem_(0, 8)_8' is out of range"),
    "half a channel": ({STEM: 2.5}, "the choice 2.5 of unit 'stem_(0, 8)_8' is fractional"),
    "a later one is wrong": ({STEM: 4, GROUPED: 9}, "the choice 9 of unit 'grouped_(0, 8)_8' is out of range"),
}

OF_UNITS: dict[str, tuple[Any, str]] = {
    "a list": ([STEM], "must hold a dict, unit name → {init_args, channels, choice}, or a"),
    "units that are numbers": ({STEM: 4}, "must hold a dict, unit name → {init_args, channels, choice}, or a"),
    "an unknown unit": ({"../stem": {}}, "channel_unit_cfg has settings for the unit '../stem', which the model"),
    "candidates that are text": (
        {STEM: {"init_args": {"candidate_choices": "2"}}},
        "candidate_choices must be a list of numbers, got '2'",
    ),
    "a candidate that is a dict": (
        {STEM: {"init_args": {"candidate_choices": [{"_target_": "os.system"}]}}},
        "the choice {'_target_': 'os.system'}",
    ),
    "a candidate out of range": (
        {STEM: {"init_args": {"candidate_choices": [2, 10**9]}}},
        "the choice 2 of unit 'stem_(0, 8)_8' is out of range",
    ),
    "a candidate of nothing": (
        {STEM: {"init_args": {"candidate_choices": [2, None]}}},
        "the choice 2 of unit 'stem_(0, 8)_8' is out of range",
    ),
    "a million candidates": (
        {STEM: {"init_args": {"candidate_choices": [2] * 500_000}}},
        "candidate_choices has 500000 entries, and at most 256 are allowed:",
    ),
    "more candidates than the others": (
        {STEM: {"init_args": {"candidate_choices": [2, 4, 8]}}},
        "the choice 2 of unit 'stem_(0, 8)_8' is out of range",
    ),
    "another choice than the candidates": (
        {STEM: {"choice": 6}},
        "the choice 6 of unit 'stem_(0, 8)_8' is out of range",
    ),
    "a divisor that is text": (
        {STEM: {"init_args": {"divisor": "8"}}},
        "divisor must be a positive integer, 'auto' or 'auto:onnxruntime', got '8'",
    ),
}
