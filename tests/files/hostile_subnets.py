"""Changes of a good ``subnet.yaml`` that nobody should get anywhere with, and what is said about each."""

from __future__ import annotations

from lightning_channels.errors import ChoiceError, ConfigError, StructureError
from tests.files.hostile import GONE, Edit
from tests.files.nets import HEADS, STEM

UNIT = ("structure", "template", "channel_unit_cfg", "units", STEM)

OF_SUBNETS: dict[str, Edit] = {
    "a list": Edit((), [1, 2], StructureError, "a subnet must be a dict, got [1, 2]"),
    "a structure": Edit((), {"version": 1, "template": {}}, StructureError, "a subnet takes no key 'template'"),
    "no supernet": Edit(
        ("supernet",), GONE, StructureError, "the subnet has no 'supernet'; it needs the keys version,"
    ),
    "another version": Edit(("version",), 2, StructureError, "the subnet has version 2; this release reads version 1"),
    "a version that is true": Edit(("version",), True, StructureError, "the subnet has version True; this release"),
    "a target": Edit(("_target_",), "os.system", StructureError, "a subnet takes no key '_target_'"),
    "a target in its structure": Edit(
        ("structure", "_target_"), "os.system", StructureError, "the structure of a subnet takes no key '_target_'"
    ),
    "a target in a unit": Edit((*UNIT, "_target_"), "os.system", ConfigError, "takes no key '_target_'"),
    "a type that is a class": Edit(
        ("structure", "template", "type"), "torch.nn.Linear", ConfigError, "unknown mutator type 'torch.nn.Linear'"
    ),
    "choices of its structure": Edit(
        ("structure", "choices"), {STEM: 4}, StructureError, "the structure of a subnet takes no key 'choices'"
    ),
    "choices that are text": Edit(("choices",), "all", StructureError, "'choices' of a subnet must be a dict, got str"),
    "a huge choice": Edit(
        ("choices", HEADS), 10**9, ChoiceError, "the choice 1000000000 of unit 'mix.qkv_(0, 8)_4' is out of range"
    ),
    "no width": Edit(("choices", HEADS), 0, ChoiceError, "the choice 0 of unit 'mix.qkv_(0, 8)_4' is out of range"),
    "a choice that is text": Edit(("choices", STEM), "4", StructureError, "choice of 'stem_(0, 8)_8' must be a number"),
    "a choice for another unit": Edit(
        ("choices", "conv_(0, 8)_8"), 4, StructureError, "a choice for the unit 'conv_(0, 8)_8', but no such unit"
    ),
    "kept channels of another unit": Edit(
        ("kept", "conv_(0, 8)_8"), [0], StructureError, "names the unit 'conv_(0, 8)_8', which has no choice there"
    ),
    "a huge kept channel": Edit(
        ("kept", STEM), [1, 2, 5, 10**9], ChoiceError, "unit 'stem_(0, 8)_8' has no channel 1000000000"
    ),
    "fewer kept than chosen": Edit(
        ("kept", STEM), [1, 5], ChoiceError, "unit 'stem_(0, 8)_8' has the choice 4 and keeps 2 channels"
    ),
    "a billion channels": Edit(
        (*UNIT, "init_args", "num_channels"),
        10**9,
        StructureError,
        "the subnet is of the supernet {supernet}…, and its",
    ),
    "another structure": Edit(
        (*UNIT, "init_args", "divisor"), 2, StructureError, "the subnet is of the supernet {supernet}…, and its"
    ),
    "a hash of another supernet": Edit(
        ("supernet",), "0" * 64, StructureError, "the subnet is of the supernet 000000000000…, and its structure is"
    ),
    "a hash that is a number": Edit(("supernet",), 5, StructureError, "'supernet' of a subnet must be a hash, got 5"),
    "resources that are text": Edit(
        ("resources", "macs"), "few", StructureError, "'resources' of a subnet must be numbers, got 'few' for 'macs'"
    ),
    "a metric that is true": Edit(
        ("metrics", "val_acc"), True, StructureError, "'metrics' of a subnet must be numbers, got True for 'val_acc'"
    ),
    "metrics that are a list": Edit(
        ("metrics",), [0.5], StructureError, "'metrics' of a subnet must be a dict, got list"
    ),
    **{
        f"weights at {path!r}": Edit(
            ("weights",), path, StructureError, "'weights' of a subnet must be the name of a .safetensors file beside"
        )
        for path in (
            "/etc/passwd.safetensors",
            "../subnet.safetensors",
            "a/subnet.safetensors",
            "C:\\subnet.safetensors",
            "..",
            "",
            "subnet.pt",
            7,
        )
    },
    "other heads": Edit(
        ("structure", "fingerprint", "attributes", "mix.heads"), 5, StructureError, "of the supernet {supernet}…"
    ),
    "a choice of half a head": Edit(("choices", HEADS), 1.5, ChoiceError, "the choice 1.5 of unit 'mix.qkv_(0, 8)_4'"),
}
"""In messages, ``{supernet}`` stands for the beginning of the hash."""

OF_NUMBERS = {
    "NaN": (".nan", "is nan; numbers must be finite"),
    "infinity": ("-.inf", "is -inf; numbers must be finite"),
    "more than 64 bits": (str(10**30), "is a whole number of more than 64 bits"),
}
"""Of a metric, as text: YAML knows these."""
