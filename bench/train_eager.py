#!/usr/bin/python3
"""Training throughput of the same models in PyTorch's eager mode (Debian: python3-torch).

The models, batches, loss, clipping and AdamW are those of bench/train_throughput.cc; bf16 is
torch.autocast. Prints one JSON object per size and dtype.
"""
import argparse
import json
import math
import os
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

# name: layers, hidden, heads, vocabulary
SIZES = {
    "d32": (2, 32, 2, 256),
    "d64": (2, 64, 2, 256),
    "d128": (4, 128, 4, 256),
    "d256": (6, 256, 4, 4096),
    "d512": (8, 512, 8, 4096),
}


def ffn_size(hidden):
    return (hidden * 8 // 3 + 31) // 32 * 32


class RmsNorm(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class Block(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.heads = heads
        ffn = ffn_size(hidden)
        self.attn_norm, self.mlp_norm = RmsNorm(hidden), RmsNorm(hidden)
        self.q, self.k, self.v, self.o = (nn.Linear(hidden, hidden, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(hidden, ffn, bias=False) for _ in range(2))
        self.down = nn.Linear(ffn, hidden, bias=False)

    def split(self, x):
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x, cosine, sine, mask):
        h = self.attn_norm(x)
        q, k, v = (self.split(linear(h)) for linear in (self.q, self.k, self.v))
        q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5) + mask
        mixed = (F.softmax(scores, dim=-1) @ v).transpose(1, 2).reshape(x.shape)
        x = x + self.o(mixed)
        h = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def rotate(x, cosine, sine):
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cosine - b * sine, b * cosine + a * sine), dim=-1)


class Model(nn.Module):
    def __init__(self, layers, hidden, heads, vocabulary, context):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, hidden)
        self.blocks = nn.ModuleList(Block(hidden, heads) for _ in range(layers))
        self.norm = RmsNorm(hidden)
        self.head = nn.Linear(hidden, vocabulary, bias=False)
        size = hidden // heads
        frequency = 10000.0 ** (-torch.arange(0, size, 2) / size)
        angle = torch.outer(torch.arange(context).float(), frequency)
        self.register_buffer("cosine", angle.cos())
        self.register_buffer("sine", angle.sin())
        self.register_buffer("mask", torch.full((context, context), -math.inf).triu(1))
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, self.cosine, self.sine, self.mask)
        return self.head(self.norm(x))


class Trainer:
    def __init__(self, size, dtype, context, sequences):
        layers, hidden, heads, vocabulary = SIZES[size]
        torch.manual_seed(1)
        self.model = Model(layers, hidden, heads, vocabulary, context)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, betas=(0.9, 0.95),
                                           weight_decay=0.1, foreach=True)
        self.dtype, self.sequences, self.context, self.vocabulary = dtype, sequences, context, vocabulary

    def step(self):
        tokens = torch.randint(self.vocabulary, (self.sequences, self.context + 1))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.dtype == "bf16"):
            logits = self.model(tokens[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    def measure(self, seconds):
        times = []
        begin = time.perf_counter()
        while len(times) < 3 or time.perf_counter() - begin < seconds:
            start = time.perf_counter()
            self.step()
            times.append(time.perf_counter() - start)
        return self.sequences * self.context / statistics.median(times[1:])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", nargs="+", default=["d128", "d256", "d512"], choices=SIZES)
    parser.add_argument("--dtype", nargs="+", default=["f32", "bf16"], choices=["f32", "bf16"])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for dtype in arguments.dtype:
        for size in arguments.size:
            trainer = Trainer(size, dtype, arguments.context, arguments.sequences)
            trainer.step()
            rate = trainer.measure(arguments.seconds)
            print(json.dumps({"size": size, "dtype": dtype, "tokens_per_second": rate}))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
