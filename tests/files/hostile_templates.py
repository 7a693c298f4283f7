"""Templates with channels, each with one change that no tracer would have made."""

from __future__ import annotations

from typing import Any

from lightning_channels.errors import ChoiceError, ConfigError, StructureError
from tests.files.hostile import CONFIG, Edit
from tests.files.nets import GROUPED, HEADS, STEM

TEMPLATE = CONFIG[1:]
OWN = (*TEMPLATE, "units")


def _channel(
    unit: str, key: str, value: Any, error: type[Exception], message: str, side: str = "output_related"
) -> Edit:
    return Edit((*OWN, unit, "channels", side, 0, key), value, error, message)


OF_TEMPLATES: dict[str, Edit] = {
    "a type to import": Edit(("type",), "os.system", ConfigError, "unknown mutator type 'os.system'"),
    "a type that is a list": Edit(
        ("type",),
        ["ChannelMutator"],
        ConfigError,
        "unknown mutator type ['ChannelMutator']; did you mean 'ChannelMutator'?",
    ),
    "a target": Edit(("_target_",), "os.system", ConfigError, "mutator ChannelMutator takes no argument '_target_'"),
    "a unit type to import": Edit(
        (*TEMPLATE, "type"), "torch.nn.Linear", ConfigError, "unknown unit type 'torch.nn.Linear'"
    ),
    "a unit type that is a dict": Edit(
        (*TEMPLATE, "type"),
        {"type": "sequential"},
        ConfigError,
        "unknown unit type {'type': 'sequential'}; did you mean 'sequential'?",
    ),
    "a target among the arguments": Edit(
        (*TEMPLATE, "default_args"),
        {"_target_": "os.system"},
        ConfigError,
        "unit type SequentialMutableChannelUnit (default_args) takes no argument",
    ),
    "arguments that are a list": Edit(
        (*TEMPLATE, "default_args"), [1], ConfigError, "default_args of channel_unit_cfg must be a dict, got [1]"
    ),
    "arguments that are nothing": Edit(
        (*TEMPLATE, "default_args"), 0, ConfigError, "default_args of channel_unit_cfg must be a dict, got 0"
    ),
    "a tracer that is a list": Edit(
        ("parse_cfg", "type"), ["Config"], ConfigError, "unknown tracer type ['Config']; did you mean 'Config'? Known:"
    ),
    "a tracer to import": Edit(
        ("parse_cfg", "type"), "subprocess.run", ConfigError, "unknown tracer type 'subprocess.run'"
    ),
    "a tracer's images of terabytes": Edit(
        ("parse_cfg",),
        {"type": "ForwardTracer", "input_shape": [10**6, 3, 10**6, 10**6]},
        ConfigError,
        "input_shape [1000000, 3, 1000000, 1000000] makes random images of more",
    ),
    "a loss calculator to import": Edit(
        ("parse_cfg",),
        {"type": "BackwardTracer", "loss_calculator": "os.system"},
        ConfigError,
        "unknown loss calculator type 'os.system'",
    ),
    "costs that are text": Edit(
        ("parse_cfg", "costs"), "macs", ConfigError, "costs of parse_cfg must be a dict, got 'macs'"
    ),
    "a dunder among the costs": Edit(
        ("parse_cfg", "costs", "__class__"), {}, ConfigError, "costs of parse_cfg takes no key '__class__'"
    ),
    "costs of a unit that isn't there": Edit(
        ("parse_cfg", "costs", "units", 0), "../stem", ConfigError, "costs of parse_cfg depend on '../stem', which is"
    ),
    "costs of units that are numbers": Edit(
        ("parse_cfg", "costs", "units"), [0], ConfigError, "units of costs of parse_cfg must be a list of names of"
    ),
    "a limit of nothing": Edit(
        ("parse_cfg", "costs", "units", 0),
        [STEM, 0],
        ConfigError,
        "units of costs of parse_cfg must be a list of names",
    ),
    "a size of a unit out of range": Edit(
        ("parse_cfg", "costs", "sizes", 0), [[1, 10**9]], ConfigError, "sizes of costs of parse_cfg must be lists of"
    ),
    "a size that is infinite": Edit(
        ("parse_cfg", "costs", "sizes", 0), [[2**62, 0]], ConfigError, "sizes of costs of parse_cfg must be lists of"
    ),
    "a size of more factors than a float holds": Edit(
        ("parse_cfg", "costs", "sizes", 0),
        [[1.5, *[0] * 400]],
        ConfigError,
        "sizes of costs of parse_cfg must be lists of",
    ),
    "a product of more factors than can be computed": Edit(
        ("parse_cfg", "costs", "macs", "stem"),
        [[1, *[0] * 200_000]],
        ConfigError,
        "macs of costs of parse_cfg must be a",
    ),
    "a size below zero": Edit(
        ("parse_cfg", "costs", "sizes", 0), [[-1, 0]], ConfigError, "sizes of costs of parse_cfg must not be below zero"
    ),
    "a product of a size out of range": Edit(
        ("parse_cfg", "costs", "macs", "stem"), [[1, -1]], ConfigError, "macs of costs of parse_cfg must be a dict, mod"
    ),
    "a product of a fraction of a size": Edit(
        ("parse_cfg", "costs", "macs", "stem"), [[1, 0.5]], ConfigError, "macs of costs of parse_cfg must be a dict, "
    ),
    "bytes below zero": Edit(
        ("parse_cfg", "costs", "activations", "stem"), [[-1, 0]], ConfigError, "activations of costs of parse_cfg must"
    ),
    "a product of nothing": Edit(
        ("parse_cfg", "costs", "activations", "stem"), [[]], ConfigError, "activations of costs of parse_cfg must be a"
    ),
    "costs of no samples": Edit(
        ("parse_cfg", "costs", "samples"), 0, ConfigError, "samples of costs of parse_cfg must be a positive integer"
    ),
    "costs of modules as a list": Edit(
        ("parse_cfg", "costs", "macs"), [["stem", 1]], ConfigError, "macs of costs of parse_cfg must be a dict, module"
    ),
    "counts that are text": Edit(
        ("parse_cfg", "macs"), {"stem": "1"}, ConfigError, "macs of parse_cfg must be a dict of module name → number of"
    ),
    "units that are a list": Edit(
        (*OWN,), [STEM], ConfigError, "units of channel_unit_cfg must be a dict or the path of a file, got"
    ),
    "no units": Edit((*OWN,), {}, ConfigError, "parse_cfg of type 'Config' needs the units with their channels in"),
    "a unit that is a number": Edit(
        (*OWN, STEM), 8, ConfigError, "the config of unit 'stem_(0, 8)_8' must be a dict, got 8"
    ),
    "a unit of another name": Edit(
        (*OWN, "../../stem"),
        {"channels": {"output_related": []}},
        ConfigError,
        "a unit's config needs init_args with num_channels, or channels with",
    ),
    "a choice that is a list": Edit(
        (*OWN, STEM, "choice"), [4], ChoiceError, "the choice [4] of unit 'stem_(0, 8)_8' is no number"
    ),
    "kept channels that are a number": Edit(
        (*OWN, STEM, "kept"),
        4,
        ChoiceError,
        "kept channels of unit 'stem_(0, 8)_8' must be a list of integers, got 4",
    ),
    "kept channels that break groups": Edit(
        (*OWN, STEM, "kept"), [0, 1, 2, 4], ChoiceError, "every one of the 2 groups of unit 'stem_(0, 8)_8' must keep"
    ),
    "other kept channels than chosen": Edit(
        (*OWN, STEM, "kept"),
        [0, 4],
        ChoiceError,
        "unit 'stem_(0, 8)_8' has the choice 4 and keeps 2 channels",
    ),
    "an order that is text": Edit(
        (*OWN, STEM, "order"),
        "0123",
        ChoiceError,
        "the order of unit 'stem_(0, 8)_8' must be a list of 4 integers",
    ),
    "a choice out of range": Edit(
        (*OWN, STEM, "choice"), 9, ChoiceError, "the choice 9 of unit 'stem_(0, 8)_8' is out of range"
    ),
    "init args that are text": Edit(
        (*OWN, STEM, "init_args"),
        "divisor",
        ConfigError,
        "init_args of the config of unit 'stem_(0, 8)_8' must be a dict, got",
    ),
    "a dunder among the init args": Edit(
        (*OWN, STEM, "init_args", "__class__"),
        "x",
        ConfigError,
        "unit 'stem_(0, 8)_8' (SequentialMutableChannelUnit) takes no argument",
    ),
    "10^9 channels": Edit(
        (*OWN, STEM, "init_args", "num_channels"),
        10**9,
        ConfigError,
        "Channel(stem, index=(0, 8), is_output_channel=true, expand_ratio=1) has",
    ),
    "channels that are text": Edit(
        (*OWN, STEM, "channels"),
        "stem",
        ConfigError,
        "channels of the config of unit 'stem_(0, 8)_8' must be a dict, got",
    ),
    "no channels": Edit(
        (*OWN, STEM, "channels"),
        {"groups": 2},
        ConfigError,
        "a unit's channels must name some under output_related or input_related,",
    ),
    "10^9 groups": Edit(
        (*OWN, STEM, "channels", "groups"),
        10**9,
        ConfigError,
        "groups of unit 'stem_(0, 8)_8' must divide its 8 channels, got",
    ),
    "groups that don't divide": Edit(
        (*OWN, STEM, "channels", "groups"),
        3,
        ConfigError,
        "groups of unit 'stem_(0, 8)_8' must divide its 8 channels, got 3",
    ),
    "fewer groups than the convolution": Edit(
        (*OWN, STEM, "channels", "groups"),
        1,
        StructureError,
        "the units 'stem_(0, 8)_8', 'grouped_(0, 8)_8' don't respect the",
    ),
    "fewer groups than the norm": Edit(
        (*OWN, GROUPED, "channels", "groups"),
        2,
        StructureError,
        "the units 'grouped_(0, 8)_8' don't respect the constraints of",
    ),
    "a side of the grouped convolution less": Edit(
        (*OWN, STEM, "channels", "input_related", 1),
        {"name": "mix.qkv"},
        ConfigError,
        "unit 'grouped_(0, 8)_8' can't have Channel(mix.qkv, index=(0, 8),",
    ),
    "a reason that is a list": Edit(
        (*OWN, STEM, "channels", "reason"),
        ["x"],
        ConfigError,
        "exact and reduced must be true or false, inexact and reason strings",
    ),
    "code for a key": Edit(
        (*OWN, STEM, "channels", "func"),
        "torch.load",
        ConfigError,
        "the channels of a unit's config takes no key 'func'",
    ),
    "a channel that is text": Edit(
        (*OWN, STEM, "channels", "output_related", 0), "stem", ConfigError, "a channel must be a dict, got 'stem'"
    ),
    "a channel twice": Edit(
        (*OWN, STEM, "channels", "output_related", "+"),
        {"name": "grouped"},
        ConfigError,
        "unit 'grouped_(0, 8)_8' can't have Channel(grouped, index=(0, 8),",
    ),
    "a name that is a list": _channel(
        STEM, "name", ["stem"], ConfigError, "'name' of a channel must be a string, got ['stem']"
    ),
    "a name with separators": _channel(
        STEM, "name", "../stem", StructureError, "unit '../stem_(0, 8)_8' has a channel in the module '../stem', which"
    ),
    "a name that is a property": _channel(
        STEM, "name", "broken", StructureError, "unit 'broken_(0, 8)_8' has a channel in the module 'broken', which the"
    ),
    "a name that is a method": _channel(
        STEM, "name", "forward", StructureError, "unit 'forward_(0, 8)_8' has a channel in the module 'forward', which"
    ),
    "a name with a dunder": _channel(
        STEM, "name", "stem.__class__", StructureError, "unit 'stem.__class___(0, 8)_8' has a channel in the module"
    ),
    "a start below zero": _channel(
        STEM, "start", -1, ConfigError, "Channel(stem, index=(-1, 8), is_output_channel=true, expand_ratio=1)"
    ),
    "an end out of range": _channel(
        HEADS, "end", 10**9, ConfigError, "Channel(mix.qkv, index=(0, 1000000000), is_output_channel=true,"
    ),
    "10^9 repetitions": _channel(
        STEM, "expand_ratio", 10**9, ConfigError, "Channel(stem, index=(0, 8), is_output_channel=true,"
    ),
    "an index out of range": _channel(
        STEM,
        "index",
        [0, 1, 2, 3, 4, 5, 6, 8],
        ConfigError,
        "Channel(stem, index=(0, 8), is_output_channel=true, expand_ratio=1) has",
    ),
    "a negative index": _channel(
        STEM,
        "index",
        [0, 1, 2, 3, 4, 5, 6, -1],
        ConfigError,
        "Channel(stem, index=(0, 8), is_output_channel=true, expand_ratio=1) has",
    ),
    "an index of floats": _channel(
        STEM, "index", [0.0] * 8, ConfigError, "'index' of the channel 'stem' must be a list of integers, got [0.0,"
    ),
    "an output that says it is an input": _channel(
        STEM,
        "is_output_channel",
        False,
        ConfigError,
        "Channel(stem, index=(0, 8), is_output_channel=false, expand_ratio=1) is",
    ),
    "a flag that is text": _channel(
        STEM,
        "is_output_channel",
        "yes",
        ConfigError,
        "'is_output_channel' of the channel 'stem' must be true or false, got",
    ),
    "a slice": _channel(STEM, "slice", "::2", ConfigError, "a channel takes no key 'slice'"),
    "a tensor that the op has": _channel(
        STEM,
        "tensor",
        "weight",
        StructureError,
        "unit 'stem.weight_(0, 8)_8' needs tensor 'weight' of 'stem', a Conv2d,",
    ),
    "a tensor that isn't there": _channel(
        STEM, "tensor", "__dict__", StructureError, "unit 'stem.__dict___(0, 8)_8' needs tensor '__dict__' of 'stem', a"
    ),
    "a dim from the end": Edit(
        (*OWN, GROUPED, "channels", "output_related", 2, "dim"),
        -3,
        ConfigError,
        "Channel(gain[-3], index=(0, 8), is_output_channel=true, expand_ratio=1)",
    ),
    "a dim that isn't there": Edit(
        (*OWN, GROUPED, "channels", "output_related", 2, "dim"),
        3,
        StructureError,
        "unit 'grouped_(0, 8)_8' needs tensor 'gain' of '', a Net, which has none",
    ),
    "a tensor of integers": Edit(
        (*OWN, GROUPED, "channels", "output_related", 2, "tensor"),
        "count",
        StructureError,
        "unit 'grouped_(0, 8)_8' needs tensor 'count' of '', a Net, which has",
    ),
    "a tensor and an attribute": Edit(
        (*OWN, GROUPED, "channels", "output_related", 2, "attribute"),
        "steps",
        ConfigError,
        "the channel '' is on a tensor or counted by an attribute, not both",
    ),
    "an attribute on a side": _channel(
        STEM,
        "attribute",
        "padding_mode",
        ConfigError,
        "a channel of unit 'stem.padding_mode_(0, 8)_8' has an 'attribute'; it",
    ),
    "an integer that the code never reads": Edit(
        (*OWN, "mix.out_(0, 8)_8", "channels", "attributes"),
        [{"name": "mix", "attribute": "steps", "end": 5, "index": [0, 1, 2, 3, 4]}],
        StructureError,
        "unit 'mix.out_(0, 8)_8' would override mix.steps, which sizes no view,",
    ),
    "a hidden integer": _channel(
        HEADS,
        "attribute",
        "_hidden",
        StructureError,
        "unit 'mix.qkv_(0, 8)_4' needs the integer '_hidden' of 'mix', a Mix,",
        "attributes",
    ),
    "a dunder": _channel(
        HEADS,
        "attribute",
        "__class__",
        StructureError,
        "unit 'mix.qkv_(0, 8)_4' needs the integer '__class__' of 'mix', a Mix,",
        "attributes",
    ),
    "a method": _channel(
        HEADS,
        "attribute",
        "forward",
        StructureError,
        "unit 'mix.qkv_(0, 8)_4' needs the integer 'forward' of 'mix', a Mix,",
        "attributes",
    ),
    "a kernel's size": Edit(
        (*OWN, STEM, "channels", "attributes"),
        [{"name": "stem", "attribute": "kernel_size[0]", "end": 3, "index": [0, 1, 2]}],
        StructureError,
        "unit 'stem_(0, 8)_8' needs the integer 'kernel_size[0]' of 'stem', a",
    ),
}
