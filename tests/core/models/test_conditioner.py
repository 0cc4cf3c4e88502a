"""Image conditioner: equal to the mathematics of DINOv2 written out here, hub names, foreground tokens."""

import pytest
import torch
import torch.nn.functional as F

from core.config.models import ConditionerConfig
from core.models.conditioner import IMAGENET_MEAN, IMAGENET_STD, ImageConditioner, foreground_tokens
from core.models.dinov2_keys import from_hub, match_layout, to_hub

CONFIG = ConditionerConfig(image_size=28, patch_size=7, width=16, num_blocks=2, num_heads=2, num_registers=3)


def random_hub_state(config: ConditionerConfig = CONFIG) -> dict[str, torch.Tensor]:
    """A state dict laid out as the hub's file of a DINOv2 with registers."""
    width, hidden, patches = config.width, config.width * config.mlp_ratio, config.num_tokens - 1 - config.num_registers
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + patches, width),
        "register_tokens": (1, config.num_registers, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, config.patch_size, config.patch_size),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for i in range(config.num_blocks):
        for name, shape in {
            "norm1": (width,),
            "norm2": (width,),
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "mlp.fc1": (hidden, width),
            "mlp.fc2": (width, hidden),
        }.items():
            shapes[f"blocks.{i}.{name}.weight"], shapes[f"blocks.{i}.{name}.bias"] = shape, shape[:1]
        shapes[f"blocks.{i}.ls1.gamma"] = shapes[f"blocks.{i}.ls2.gamma"] = (width,)
    return {key: 0.5 * torch.randn(shape) for key, shape in shapes.items()}


def dinov2(state: dict[str, torch.Tensor], image: torch.Tensor, config: ConditionerConfig = CONFIG) -> torch.Tensor:
    """DINOv2 with registers on the hub's weights, up to the last block, then a plain layer norm."""
    pixels = (image - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    weight, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    patches = F.conv2d(pixels, weight, bias, stride=config.patch_size)
    patches = patches.flatten(2).transpose(1, 2) + state["pos_embed"][:, 1:]
    first = (state["cls_token"] + state["pos_embed"][:, :1]).expand(len(image), -1, -1)
    x = torch.cat([first, state["register_tokens"].expand(len(image), -1, -1), patches], dim=1)

    def linear(y, name):
        return y @ state[name + ".weight"].T + state[name + ".bias"]

    def norm(y, name):
        return F.layer_norm(y, y.shape[-1:], state[name + ".weight"], state[name + ".bias"], eps=1e-6)

    for i in range(config.num_blocks):
        block = f"blocks.{i}."
        qkv = linear(norm(x, block + "norm1"), block + "attn.qkv")
        q, k, v = qkv.unflatten(-1, (3, config.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + linear(mixed.transpose(1, 2).flatten(2), block + "attn.proj") * state[block + "ls1.gamma"]
        hidden = F.gelu(linear(norm(x, block + "norm2"), block + "mlp.fc1"))
        x = x + linear(hidden, block + "mlp.fc2") * state[block + "ls2.gamma"]
    return F.layer_norm(x, x.shape[-1:])


@pytest.fixture
def conditioner():
    return ImageConditioner(CONFIG)


def load_hub(model: ImageConditioner, state: dict[str, torch.Tensor]) -> None:
    renamed = {f"backbone.{key}": value for key, value in from_hub(state).items()}
    model.load_state_dict(match_layout(renamed, set(model.state_dict())))


def test_same_output_as_dinov2_written_out(conditioner):
    state, image = random_hub_state(), torch.rand(2, 3, 28, 28)
    load_hub(conditioner, state)
    out = conditioner(image)
    assert out.shape == (2, CONFIG.num_tokens, CONFIG.width)
    torch.testing.assert_close(out, dinov2(state, image), rtol=1e-4, atol=1e-4)


def test_hub_names_round_trip():
    state = random_hub_state()
    back = to_hub(from_hub(state))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], value) for key, value in state.items())


def test_hub_file_without_mask_token_and_with_a_stranger():
    state = random_hub_state()
    del state["mask_token"]
    assert from_hub(state)["embeddings.mask_token"].shape == (1, CONFIG.width)
    with pytest.raises(KeyError, match="head.weight"):
        from_hub({**state, "head.weight": torch.zeros(1)})


def test_loads_both_layouts_of_transformers(conditioner):
    state, image = conditioner.state_dict(), torch.rand(1, 3, 28, 28)
    before = match_layout(state, {"layer.0.attention.attention.query.weight"})
    after = match_layout(before, {"layer.0.attention.q_proj.weight"})
    assert before.keys() != after.keys() and before.keys().isdisjoint(k for k in after if "_proj" in k)
    expected = conditioner(image)
    for layout in (before, after):
        other = ImageConditioner(CONFIG)
        other.load_state_dict(layout)
        assert torch.equal(other(image), expected)


def test_every_trainable_parameter_learns(conditioner):
    (conditioner(torch.rand(1, 3, 28, 28)) * torch.randn(CONFIG.num_tokens, CONFIG.width)).sum().backward()
    trainable = [p for p in conditioner.parameters() if p.requires_grad]
    assert trainable and all(p.grad is not None for p in trainable)


def test_bfloat16_weights_give_float32_tokens(conditioner):
    image = torch.rand(1, 3, 28, 28)
    expected = conditioner(image)
    out = conditioner.to(torch.bfloat16)(image)
    assert out.dtype == torch.float32
    assert (out - expected).norm() < 0.1 * expected.norm()


def test_foreground_tokens_keep_prefix_and_marked_patches():
    tokens = torch.randn(2, CONFIG.num_tokens, CONFIG.width)
    mask = torch.zeros(2, 1, 28, 28)
    mask[0, 0, 8, 20] = 0.5  # row 1, column 2
    mask[1, 0, 27, 0] = 1.0  # row 3, column 0
    kept = foreground_tokens(CONFIG, tokens, mask)
    prefix = 1 + CONFIG.num_registers
    assert kept.seqlens == [prefix + 1, prefix + 1]
    assert kept.coords[:prefix].tolist() == [[0, 0, 0, 1]] * prefix
    assert kept.coords[prefix].tolist() == [0, 2, 1, 0]
    assert kept.coords[-1].tolist() == [1, 0, 3, 0]
    assert torch.equal(kept.feats[prefix], tokens[0, prefix + 1 * 4 + 2])
    assert torch.equal(kept.feats[-1], tokens[1, prefix + 3 * 4])
