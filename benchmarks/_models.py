"""The models that are tried: their names, how each is built with random weights, and an input for it."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["FAMILIES", "Example", "build", "family_of", "names_of", "randomise", "refuse_unknown"]

FAMILIES = ("classification", "segmentation", "detection", "video", "timm", "attention", "huggingface")
"""Lists that can be run by name; the first four are torchvision's."""

_TIMM = """
resnet50d resnetv2_50 efficientnet_b0 mobilenetv3_large_100 mobilenetv4_conv_small regnetx_008 regnety_008 densenet121
dpn68 hrnet_w18_small res2net50_26w_4s resnest14d ecaresnet50t seresnet50 skresnet18 cspresnet50 cspdarknet53 vovnet39a
ghostnet_100 repvgg_a0 nfnet_l0 convnext_tiny convnextv2_nano mixer_s16_224 gmlp_s16_224 resmlp_12_224
vit_small_patch16_224 deit_tiny_patch16_224 swin_tiny_patch4_window7_224 pvt_v2_b0 poolformer_s12 edgenext_small
mobilevit_s efficientformer_l1 levit_128 coatnet_0_224 maxvit_tiny_tf_224 xcit_nano_12_p16_224 focalnet_tiny_srf
inception_v4 xception41 dla34 selecsls42b tresnet_m rexnet_100 fbnetc_100 mnasnet_100 hardcorenas_a lcnet_050 tinynet_e
"""
"""One or two of each architecture that timm has; written here with the prefix ``timm:`` left out."""

_ATTENTION = """
beit_base_patch16_224 beitv2_base_patch16_224 eva02_tiny_patch14_336 eva02_small_patch14_336 vit_base_patch16_rope_224
swinv2_tiny_window8_256 davit_tiny twins_svt_small cait_xxs24_224 convit_tiny deit_tiny_distilled_patch16_224
"""
"""More of timm's: rotary tables, cosine attention, channel attention, talking heads, and two tokens of a kind."""

_HUGGING_FACE = {
    "vit": ("ViTForImageClassification", "ViTConfig"),
    "swin": ("SwinForImageClassification", "SwinConfig"),
    "segformer": ("SegformerForImageClassification", "SegformerConfig"),
    "segformer_segmentation": ("SegformerForSemanticSegmentation", "SegformerConfig"),
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config"),
    "beit": ("BeitForImageClassification", "BeitConfig"),
    "siglip": ("SiglipForImageClassification", "SiglipConfig"),
}
"""Name → class of the model and of its configuration in transformers, written here with the prefix ``hf:`` left out."""

_UNINITIALISED = ("googlenet", "inception_v3")  # their own initialisation takes a minute


@dataclass(slots=True)
class Example:
    """A model and what it is called with.

    Attributes:
        model: With random weights, in eval mode.
        inputs: A tensor, or a tuple of positional arguments.
        heads: Names of the modules to compare with the masked original instead of the model's own result, where that
            comes from ranking: random weights give equal scores, and rounding decides which of them comes first.
    """

    model: nn.Module
    inputs: Any
    heads: tuple[str, ...] = ()


def names_of(family: str) -> list[str]:
    """Names of all models of a family, in the order of their list.

    Raises:
        SystemExit: If there is no such family.
    """
    if family in ("timm", "attention"):
        return [f"timm:{name}" for name in (_TIMM if family == "timm" else _ATTENTION).split()]
    if family == "huggingface":
        return [f"hf:{name}" for name in _HUGGING_FACE]
    if family not in FAMILIES:
        raise SystemExit(f"unknown family {family!r}; there are {', '.join(FAMILIES)}")
    import torchvision

    module = torchvision.models if family == "classification" else getattr(torchvision.models, family)
    return list(torchvision.models.list_models(module=module))


def family_of(name: str) -> str:
    """The list that a model is on; ``"other"`` for one that is on none."""
    prefix, _, rest = name.rpartition(":")
    if prefix == "timm":
        return "attention" if rest in _ATTENTION.split() else "timm"
    if prefix:
        return "huggingface" if prefix == "hf" else "other"
    return next((family for family in FAMILIES[:4] if name in names_of(family)), "other")


def refuse_unknown(name: str) -> None:
    """Stop at a name that no model can be built from.

    Raises:
        SystemExit: If torchvision has no such model, and it isn't ``timm:NAME``, ``hf:NAME`` or ``MODULE:CALLABLE``.
    """
    if ":" in name or family_of(name) != "other":
        return
    import difflib

    import torchvision

    near = difflib.get_close_matches(name, torchvision.models.list_models(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise SystemExit(
        f"torchvision has no model {name!r}{hint} Others are given as timm:NAME, hf:NAME or MODULE:CALLABLE"
    )


def build(name: str) -> Example:
    """Build a model by its name.

    Args:
        name: A torchvision model, ``timm:NAME``, ``hf:NAME`` for one of the list, or ``MODULE:CALLABLE`` for anything
            that can be imported. The callable returns a model (called with a 224-pixel image) or a pair of model and
            inputs.
    """
    torch.manual_seed(0)
    prefix, _, rest = name.rpartition(":")
    if prefix == "timm":
        example = _timm(rest)
    elif prefix == "hf":
        example = _hugging_face(rest)
    elif prefix:
        made = getattr(importlib.import_module(prefix), rest)()
        example = Example(*made) if isinstance(made, tuple) else Example(made, images())
    else:
        example = _torchvision(name)
    example.model = randomise(example.model.eval())
    return example


def images(size: int = 224, *leading: int) -> Tensor:
    """One random image (or clip, with a number of frames), the same every time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn((1, 3, *leading, size, size), generator=generator)


def _timm(name: str) -> Example:
    import timm

    model = timm.create_model(name, pretrained=False, num_classes=1000)  # some have no head of their own
    config: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    fixed = config.get("fixed_input_size")
    return Example(model, images(config["input_size"][-1] if fixed else 224))


def _hugging_face(name: str) -> Example:
    import transformers

    if name not in _HUGGING_FACE:
        raise SystemExit(f"no model hf:{name}; there are {', '.join(_HUGGING_FACE)}")
    model, config = (getattr(transformers, cls) for cls in _HUGGING_FACE[name])
    return Example(model(config(num_labels=1000)), images())


def _torchvision(name: str) -> Example:
    import torchvision

    family = family_of(name)
    options: dict[str, Any] = {"weights": None}
    if family in ("segmentation", "detection"):
        options["weights_backbone"] = None
    if name in _UNINITIALISED:
        options["init_weights"] = False
    heads: tuple[str, ...] = ()
    inputs: Any = images(299 if name == "inception_v3" else 224)
    if family == "detection":
        if not name.startswith("ssd"):  # these have one size
            options |= {"min_size": 224, "max_size": 224}
        inputs = ([inputs[0]],)
        heads = ("rpn.head",) if "rcnn" in name else ("head",)
    if family == "video":
        inputs = images(112, 8) if name.startswith(("r3d", "r2plus1d", "mc3", "swin3d")) else images(224, 16)
    return Example(torchvision.models.get_model(name, **options), inputs, heads)


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """Give constant tensors random values: a fresh norm's ones or a branch's gamma of zero would hide errors."""
    generator = torch.Generator().manual_seed(1)
    for tensor in [*model.parameters(), *model.buffers()]:
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        first = float(tensor.flatten()[0])
        if tensor.numel() == 1:
            if isinstance(tensor, nn.Parameter) and first == 0:
                tensor.fill_(0.5)  # the gain of a residual branch
        elif bool((tensor == tensor.flatten()[0]).all()):
            noise = torch.rand(tensor.shape, generator=generator).to(tensor.dtype)
            tensor.copy_(noise * 0.5 + (0.5 if first > 0.5 else -0.25))
    return model
