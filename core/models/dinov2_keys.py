"""Names of DINOv2 weights: the hub file of facebookresearch/dinov2, and the layouts of the transformers library.

The library renamed its attention layers in version 5; the file of the hub joins query, key and value in one
matrix. The functions here are pure: a state dict in, a state dict out, tensors shared.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

_HUB_ROOT = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "register_tokens": "embeddings.register_tokens",
    "mask_token": "embeddings.mask_token",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_HUB_LAYER = {"attn.proj": "attention.o_proj", "ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
_BEFORE_5 = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}


def from_hub(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of ``dinov2_vit*_reg4_pretrain.pth`` under the names of transformers 5.

    Raises:
        KeyError: for a key that such a file does not have.
    """
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in _HUB_ROOT:
            renamed[_HUB_ROOT[key]] = value
            continue
        root, index, rest = key.split(".", 2) if key.count(".") >= 2 else (key, "", "")
        if root != "blocks" or not index.isdigit():
            raise KeyError(key)
        prefix = f"encoder.layer.{index}."
        if rest.startswith("attn.qkv."):
            kind = rest.rpartition(".")[2]
            for name, part in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{prefix}attention.{name}_proj.{kind}"] = part
            continue
        for old, new in _HUB_LAYER.items():
            rest = rest.replace(old, new)
        renamed[prefix + rest] = value
    if "embeddings.mask_token" not in renamed and "embeddings.cls_token" in renamed:  # only used in its training
        renamed["embeddings.mask_token"] = torch.zeros_like(renamed["embeddings.cls_token"][0])
    return renamed


def to_hub(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of ``from_hub``."""
    root = {new: old for old, new in _HUB_ROOT.items()}
    joined: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in root:
            joined[root[key]] = value
            continue
        index, rest = key.removeprefix("encoder.layer.").split(".", 1)
        if rest.startswith(("attention.k_proj.", "attention.v_proj.")):
            continue
        if rest.startswith("attention.q_proj."):
            parts = [state[key.replace("q_proj", f"{name}_proj")] for name in "qkv"]
            rest, value = "attn.qkv." + rest.rpartition(".")[2], torch.cat(parts)
        for old, new in _HUB_LAYER.items():
            rest = rest.replace(new, old)
        joined[f"blocks.{index}.{rest}"] = value
    return joined


def match_layout(state: Mapping[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """``state`` under the attention names of transformers before or after version 5, as the keys ``wanted`` have it.

    Other keys, and any prefix, stay.
    """
    older = any(".attention.attention." in key for key in wanted)
    pairs = [(new, old) if older else (old, new) for old, new in _BEFORE_5.items()]
    renamed = {}
    for key, value in state.items():
        for source, target in pairs:
            if f".{source}." in key:
                key = key.replace(f".{source}.", f".{target}.")
        renamed[key] = value
    return renamed
