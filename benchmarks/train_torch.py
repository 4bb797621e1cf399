"""The models of ``train.py`` in plain PyTorch: pre-norm blocks, ``scaled_dot_product_attention``, AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from train_shapes import HEADS, IMAGES, INNER, LAYERS, LENGTH, SHAPES, WIDTH, WORDS, best_product, data


class Block(nn.Module):
    def __init__(self, width: int, heads: int, inner: int, dropout: float, causal: bool) -> None:
        super().__init__()
        self.heads, self.rate, self.causal = heads, dropout, causal
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.joined, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Any) -> Any:
        batch, length, width = x.shape
        parts = self.joined(self.norms[0](x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        rate = self.rate if self.training else 0.0
        y = F.scaled_dot_product_attention(*parts, dropout_p=rate, is_causal=self.causal)
        x = x + self.dropout(self.output(y.transpose(1, 2).reshape(batch, length, width)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norms[1](x)))))


class Model(nn.Module):
    def __init__(self, kind: str, dropout: float) -> None:
        super().__init__()
        self.kind = kind
        images = kind == "vit"
        width, heads, inner, layers = (
            (IMAGES["hidden_dim"], IMAGES["num_heads"], 768, IMAGES["num_layers"])
            if images
            else (WIDTH, HEADS, INNER, LAYERS)
        )
        self.tokens = nn.Conv2d(3, width, 4, 4) if images else nn.Embedding(WORDS, width)
        self.first = nn.Parameter(torch.zeros(1, 1, width)) if images else None
        self.positions = nn.Parameter(torch.zeros(1, 65 if images else LENGTH, width))
        self.blocks = nn.Sequential(*(Block(width, heads, inner, dropout, kind == "gpt") for _ in range(layers)))
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.head = None if kind == "gpt" else nn.Linear(width, 10 if images else 2)

    def forward(self, x: Any) -> Any:
        x = self.tokens(x)
        if self.first is not None:
            x = x.flatten(2).transpose(1, 2)
            x = torch.cat([self.first.expand(len(x), -1, -1), x], dim=1)
        x = self.norm(self.blocks(self.dropout(x + self.positions)))
        return x @ self.tokens.weight.T if self.head is None else self.head(x[:, 0])


def step(kind: str, compiled: bool, dropout: float) -> Callable[[], Any]:
    torch.manual_seed(0)
    x, y = data(kind)
    inputs = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if kind == "vit" else x)
    labels = torch.from_numpy(y).long()
    model = Model(kind, dropout)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def loss() -> Any:
        return F.cross_entropy(model(inputs).flatten(0, -2), labels.flatten())

    forward = torch.compile(loss) if compiled else loss

    def run() -> None:
        optimizer.zero_grad()
        forward().backward()
        optimizer.step()

    return run


def products() -> float:
    """Return the GFLOP/s of a matrix product of the GPT's shapes."""
    one, other = (torch.randn(shape) for shape in SHAPES)
    return best_product(lambda: one @ other)
