"""A plain eager PyTorch Llama that scores token windows: the peer of bench/eval_throughput.py.

usage: eval_eager.py MODEL_DIR TOKENS.u16 CONTEXT BATCH THREADS

Reads config.json and float32 model.safetensors of a Hugging Face directory, scores the windows of the
rule concat_no_bos, prints {"loss", "tokens_per_second", "seconds"}. The model is written as one would
write it for clarity: RMSNorm, rotary positions, grouped-query attention with a mask, SwiGLU, logits of
the whole batch, torch's cross_entropy.
"""
import json
import math
import pathlib
import struct
import sys
import time

import torch
import torch.nn.functional as F


def read_tensors(path):
    raw = bytearray(path.read_bytes())
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        assert entry["dtype"] == "F32", name
        first, last = entry["data_offsets"]
        values = torch.frombuffer(raw, dtype=torch.float32, count=(last - first) // 4,
                                  offset=8 + size + first)
        tensors[name] = values.reshape(entry["shape"]).clone()
    return tensors


class Llama:
    def __init__(self, directory):
        self.config = json.loads((directory / "config.json").read_text())
        self.tensors = read_tensors(directory / "model.safetensors")
        c = self.config
        self.heads = c["num_attention_heads"]
        self.kv_heads = c["num_key_value_heads"]
        self.head_size = c.get("head_dim") or c["hidden_size"] // self.heads

    def norm(self, x, name):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.config["rms_norm_eps"])
        return x * scale * self.tensors[name]

    def linear(self, x, name):
        return F.linear(x, self.tensors[name])

    def rotary(self, length):
        base = self.config.get("rope_theta", 10000.0)
        steps = base ** (-torch.arange(0, self.head_size, 2, dtype=torch.float64) / self.head_size)
        angles = torch.outer(torch.arange(length, dtype=torch.float64), steps)
        angles = torch.cat((angles, angles), -1)
        return angles.cos().float(), angles.sin().float()

    @staticmethod
    def rotate(x, cosine, sine):
        first, second = x.chunk(2, -1)
        return x * cosine + torch.cat((-second, first), -1) * sine

    def block(self, x, index, cosine, sine, mask):
        batch, length, _ = x.shape
        prefix = f"model.layers.{index}."
        h = self.norm(x, prefix + "input_layernorm.weight")

        def split(name, count):
            y = self.linear(h, prefix + f"self_attn.{name}.weight")
            return y.view(batch, length, count, self.head_size).transpose(1, 2)

        q = self.rotate(split("q_proj", self.heads), cosine, sine)
        k = self.rotate(split("k_proj", self.kv_heads), cosine, sine)
        v = split("v_proj", self.kv_heads)
        k = k.repeat_interleave(self.heads // self.kv_heads, 1)
        v = v.repeat_interleave(self.heads // self.kv_heads, 1)
        scores = q @ k.transpose(2, 3) / math.sqrt(self.head_size) + mask
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, -1)
        x = x + self.linear(mixed, prefix + "self_attn.o_proj.weight")
        h = self.norm(x, prefix + "post_attention_layernorm.weight")
        gate = F.silu(self.linear(h, prefix + "mlp.gate_proj.weight"))
        up = self.linear(h, prefix + "mlp.up_proj.weight")
        return x + self.linear(gate * up, prefix + "mlp.down_proj.weight")

    def logits(self, tokens):
        length = tokens.shape[1]
        cosine, sine = self.rotary(length)
        mask = torch.full((length, length), -math.inf).triu(1)
        x = F.embedding(tokens, self.tensors["model.embed_tokens.weight"])
        for index in range(self.config["num_hidden_layers"]):
            x = self.block(x, index, cosine, sine, mask)
        x = self.norm(x, "model.norm.weight")
        tied = self.config.get("tie_word_embeddings")
        return self.linear(x, "model.embed_tokens.weight" if tied else "lm_head.weight")


def main():
    directory, ids, context, batch, threads = sys.argv[1:]
    context, batch = int(context), int(batch)
    torch.set_num_threads(int(threads))
    raw = bytearray(pathlib.Path(ids).read_bytes())
    tokens = torch.frombuffer(raw, dtype=torch.int16).long() % 65536
    windows = tokens[: len(tokens) // context * context].view(-1, context)
    model = Llama(pathlib.Path(directory))
    total, count, run = 0.0, 0, 0
    with torch.no_grad():
        model.logits(windows[:1, :-1])  # warm up
        start = time.perf_counter()
        for first in range(0, len(windows), batch):
            part = windows[first : first + batch]
            logits = model.logits(part[:, :-1])
            losses = F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="none")
            total += losses.double().sum().item()
            count += losses.numel()
            run += part[:, :-1].numel()
        seconds = time.perf_counter() - start
    print(json.dumps({"loss": total / count, "tokens_per_second": run / seconds,
                      "seconds": seconds, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
