"""A byte-level transformer that learns something in a minute on one CPU core."""

from __future__ import annotations

import lightning as L  # noqa: N812 (the name that Lightning's own documentation uses)
import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY_SIZE = 256


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, each behind a norm and a residual."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) -> the same shape."""
        batch, time, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, time, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, time, width))
        fed: Tensor = self.feed(self.norm_feed(x))
        return x + fed


class ByteTransformer(L.LightningModule):
    """Predicts the next byte; keeps the loss of every step in ``losses``."""

    def __init__(
        self, window_size: int, width: int = 64, num_layers: int = 2, num_heads: int = 4
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY_SIZE, width)
        self.positions = nn.Embedding(window_size, width)
        self.blocks = nn.Sequential(*(Block(width, num_heads) for _ in range(num_layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY_SIZE)
        self.losses: list[float] = []

    def forward(self, input_ids: Tensor) -> Tensor:
        """Byte tokens (batch, time) -> logits (batch, time, 256)."""
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.blocks(self.tokens(input_ids) + self.positions(places))
        logits: Tensor = self.head(self.norm(x))
        return logits

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Mean cross-entropy in nats per byte."""
        logits = self(batch["input_ids"])
        loss = functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
        self.losses.append(loss.item())
        self.log("loss", loss, prog_bar=True, logger=False)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW at one learning rate: the demo is about the data."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)
