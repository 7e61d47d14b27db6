"""A faster forward of ConvNeXt and ConvNeXtV2 for features that nothing is learned from.

The layers stay timm's own, and so do weights and names: only the order of the arithmetic differs.
What timm computes in passes over the widest tensor, which take most of its time, goes into weights:
response normalisation scales the rows of the matrix behind it, sample by sample, its bias and the
layer scale go into that matrix too, and everything else happens in place. Where few pixels are
left, it is they that are scaled.
"""

from __future__ import annotations

import copy

import torch
from timm.layers import GELUTanh, GlobalResponseNormMlp, LayerNorm, LayerNorm2d, Mlp
from timm.layers.activations import GELU
from timm.layers.grn import GlobalResponseNorm
from timm.models import FeatureListNet
from timm.models.convnext import ConvNeXtBlock, ConvNeXtStage
from torch import Tensor, nn
from torch.nn import functional as F

_STEM, _STAGES = ("stem_0", "stem_1"), ("stages_0", "stages_1", "stages_2", "stages_3")
_ACTIVATIONS = (nn.GELU, GELU, GELUTanh)
_SAME = 1e-4
"""Relative distance up to which two forwards of a random image are one; it is near 1e-6."""
_EDGES = (64, 96)
_FEW = 2
"""Pixels for every channel that comes out, below which it is quicker to scale them than a matrix
for every sample."""


def fast(backbone: nn.Module) -> nn.Module:
    """The same encoder with a faster forward; any other than a plain ConvNeXt comes back as it is.

    Parameters, buffers and their names stay. Where a gradient or training mode asks for it, the
    layers run one after the other as timm has them.
    """
    if not _is_plain_convnext(backbone):
        return backbone
    quick = FastConvNeXt(backbone)
    if not _agree(quick):
        return backbone
    _lay_out(quick)
    return quick


class FastConvNeXt(nn.ModuleDict):
    """A ConvNeXt's four stages as features, fine to coarse.

    Args:
        backbone: Its layers are shared.
    """

    def __init__(self, backbone: FeatureListNet) -> None:
        super().__init__(backbone.items())
        self.feature_info = backbone.feature_info
        self.train(backbone.training)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Encode `(b, bands, h, w)` into four levels."""
        return self.as_timm(x) if self._has_to_learn(x) else self.quickly(x)

    def as_timm(self, x: Tensor) -> list[Tensor]:
        """Levels, by timm's own forward of every layer."""
        levels = []
        for name, layer in self.items():
            x = layer(x)
            if name in _STAGES:
                levels.append(x)
        return levels

    def quickly(self, x: Tensor) -> list[Tensor]:
        """Levels without a gradient; they are laid out with the channels last."""
        convolution, norm = (self[name] for name in _STEM)
        x = _normed(norm, _convolved(convolution, x.permute(0, 2, 3, 1)))
        levels = []
        for name in _STAGES:
            x = _stage(self[name], x)
            levels.append(x.permute(0, 3, 1, 2))
        return levels

    def _has_to_learn(self, x: Tensor) -> bool:
        kind = x.device.type
        mixed = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        if self.training or mixed:
            return True
        if not torch.is_grad_enabled():
            return False
        return x.requires_grad or any(weight.requires_grad for weight in self.parameters())


# ---------------------------------------------------------- layers on `(b, h, w, channels)`


def _convolved(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    return convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).contiguous()


def _normed(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _stage(stage: ConvNeXtStage, x: Tensor) -> Tensor:
    if isinstance(stage.downsample, nn.Sequential):
        norm, convolution = stage.downsample
        x = _convolved(convolution, _normed(norm, x))
    for block in stage.blocks:
        x = _block(block, x)
    return x


def _block(block: ConvNeXtBlock, x: Tensor) -> Tensor:
    """A block whose input nobody needs any more: the output takes its place."""
    mlp = block.mlp
    inside = _normed(block.norm, _convolved(block.conv_dw, x))
    inside = F.linear(inside, _matrix(mlp.fc1), mlp.fc1.bias).flatten(1, 2)
    torch.ops.aten.gelu_(inside, approximate=_approximate(mlp.act))
    matrix, bias = _matrix(mlp.fc2).t(), mlp.fc2.bias  # (in, out), as they lie in memory
    if block.gamma is not None:
        matrix, bias = matrix * block.gamma, bias * block.gamma
    if isinstance(mlp, GlobalResponseNormMlp):
        bias = bias + mlp.grn.bias @ matrix
        response = _response(mlp.grn, inside)
        if _has_few_pixels(inside, matrix):
            inside *= response[:, None]
        else:
            matrix = matrix * response[:, :, None]
    x += bias
    _add_product(x, inside, matrix)
    return x


def _has_few_pixels(inside: Tensor, matrix: Tensor) -> bool:
    pixels = inside.shape[1]  # in a program for images of any size no number, and usually many
    return isinstance(pixels, int) and pixels < _FEW * matrix.shape[1]


def _add_product(x: Tensor, inside: Tensor, matrix: Tensor) -> None:
    """Add to `(b, h, w, out)` what a matrix, or one for every sample, makes of the pixels."""
    if matrix.ndim == 2:
        x.flatten(0, 2).addmm_(inside.flatten(0, 1), matrix)
    else:
        x.flatten(1, 2).baddbmm_(inside, matrix)


def _approximate(activation: nn.Module) -> str:
    """How torch calls the way that a GELU is computed."""
    return "tanh" if isinstance(activation, GELUTanh) else "none"


def _response(norm: GlobalResponseNorm, x: Tensor) -> Tensor:
    """What a response normalisation multiplies `(b, pixels, channels)` with, `(b, channels)`."""
    size = x.square().sum(dim=1, dtype=torch.float32).sqrt()
    relative = size / (size.mean(dim=-1, keepdim=True) + norm.eps)
    return (1 + norm.weight * relative).to(x.dtype)


def _matrix(layer: nn.Linear | nn.Conv2d) -> Tensor:
    """The weights of a linear layer, or of a 1×1 convolution, `(out, in)`."""
    return layer.weight.flatten(1)


# ---------------------------------------------------------- which encoders


def _is_plain_convnext(backbone: nn.Module) -> bool:
    return (
        type(backbone) is FeatureListNet
        and tuple(backbone) == (*_STEM, *_STAGES)
        and tuple(backbone.return_layers) == _STAGES
        and _is_convolution(backbone["stem_0"])
        and _is_norm(backbone["stem_1"])
        and all(_is_plain_stage(backbone[name]) for name in _STAGES)
    )


def _is_plain_stage(stage: nn.Module) -> bool:
    return (
        type(stage) is ConvNeXtStage
        and _is_plain_downsample(stage.downsample)
        and all(_is_plain_block(block) for block in stage.blocks)
    )


def _is_plain_downsample(downsample: nn.Module) -> bool:
    if type(downsample) is nn.Identity:
        return True
    norm, convolution = downsample
    return _is_norm(norm) and _is_convolution(convolution)


def _is_plain_block(block: nn.Module) -> bool:
    return (
        type(block) is ConvNeXtBlock
        and _is_convolution(block.conv_dw)
        and block.conv_dw.stride == (1, 1)
        and _is_norm(block.norm)
        and type(block.mlp) in (Mlp, GlobalResponseNormMlp)
        and type(block.mlp.act) in _ACTIVATIONS
        and getattr(block.mlp.act, "approximate", "none") == "none"
        and type(getattr(block.mlp, "norm", None)) in (nn.Identity, type(None))
        and block.mlp.fc1.bias is not None
        and block.mlp.fc2.bias is not None
        and type(block.shortcut) is nn.Identity
    )


def _is_convolution(layer: nn.Module) -> bool:
    return type(layer) is nn.Conv2d and layer.bias is not None


def _is_norm(layer: nn.Module) -> bool:
    return type(layer) in (LayerNorm, LayerNorm2d) and not layer._fast_norm


def _lay_out(backbone: nn.Module) -> None:
    """Turn the second matrix of every block around in memory; nothing but its strides tells."""
    for block in backbone.modules():
        if isinstance(block, ConvNeXtBlock):
            weight = block.mlp.fc2.weight
            weight.data = weight.data.transpose(0, 1).contiguous().transpose(0, 1)


@torch.no_grad()
def _agree(quick: FastConvNeXt) -> bool:
    """Whether both ways give the same of a random image, whatever timm's layers may have become.

    Weights that are new do nothing in places, so those of a copy are shaken first.
    """
    tried = copy.deepcopy(quick).eval()
    generator = torch.Generator().manual_seed(0)
    for weight in tried.parameters():
        shaken = torch.randn(weight.shape, generator=generator, device="cpu")
        weight += 0.1 * shaken.to(weight)
    shape = (1, tried["stem_0"].in_channels, *_EDGES)
    x = torch.randn(shape, generator=generator, device="cpu").to(tried["stem_0"].weight)
    try:
        pairs = zip(tried.quickly(x), tried.as_timm(x), strict=True)
        return all(bool((a - b).norm() <= _SAME * b.norm()) for a, b in pairs)
    except RuntimeError:
        return False
