"""Tokens per second of `fewbit eval` beside a plain eager PyTorch model, in one run.

usage: eval_throughput.py FEWBIT [--shape NAME]... [--repeats N] [--threads N] [--python PYTHON]

For every shape: writes a random model in Hugging Face layout and random tokens, then runs
`fewbit eval` and eval_eager.py (with a PYTHON that has torch) in turn, N times each. Both must give the
same loss. Prints the median tokens/s of each, their ratio, and all single runs. Timings of a shared
machine scatter: the two programs alternate, so that both meet the same load.
"""
import argparse
import array
import json
import os
import pathlib
import random
import statistics
import struct
import subprocess
import sys
import tempfile

# name -> hidden, ffn, layers, heads, kv heads, vocabulary, tied, context, windows
SHAPES = {
    "smollm2-135m": (576, 1536, 30, 9, 3, 49152, True, 512, 8),
    "suite-large": (256, 688, 8, 8, 8, 4096, True, 256, 128),
    "suite-small": (64, 172, 4, 4, 4, 4096, True, 256, 512),
}


def write_model(directory, shape, seed=1):
    hidden, ffn, layers, heads, kv_heads, vocabulary, tied, context, _ = shape
    head = hidden // heads
    tensors = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    if not tied:
        tensors["lm_head.weight"] = (vocabulary, hidden)
    for i in range(layers):
        p = f"model.layers.{i}."
        tensors[p + "input_layernorm.weight"] = (hidden,)
        tensors[p + "post_attention_layernorm.weight"] = (hidden,)
        tensors[p + "self_attn.q_proj.weight"] = (heads * head, hidden)
        tensors[p + "self_attn.k_proj.weight"] = (kv_heads * head, hidden)
        tensors[p + "self_attn.v_proj.weight"] = (kv_heads * head, hidden)
        tensors[p + "self_attn.o_proj.weight"] = (hidden, heads * head)
        tensors[p + "mlp.gate_proj.weight"] = (ffn, hidden)
        tensors[p + "mlp.up_proj.weight"] = (ffn, hidden)
        tensors[p + "mlp.down_proj.weight"] = (hidden, ffn)
    # A block of random numbers, cut at random places: quick, and random enough for speed.
    generator = random.Random(seed)
    pool = array.array("f", (generator.gauss(0, 0.05) for _ in range(1 << 17)))
    header, offset = {}, 0
    for name, dims in tensors.items():
        size = 4
        for d in dims:
            size *= d
        header[name] = {"dtype": "F32", "shape": dims, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(directory / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, dims in tensors.items():
            count = (header[name]["data_offsets"][1] - header[name]["data_offsets"][0]) // 4
            if len(dims) == 1:
                array.array("f", [1.0] * count).tofile(file)
            while len(dims) > 1 and count > 0:
                start = generator.randrange(len(pool) // 2)
                part = pool[start : start + min(count, len(pool) // 2)]
                part.tofile(file)
                count -= len(part)
    (directory / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary,
        "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048, "rope_theta": 10000.0, "tie_word_embeddings": tied,
        "hidden_act": "silu", "torch_dtype": "float32"}))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("fewbit")
    parser.add_argument("--shape", action="append", choices=SHAPES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--python", default=sys.executable)
    arguments = parser.parse_args()
    eager = pathlib.Path(__file__).with_name("eval_eager.py")
    for name in arguments.shape or SHAPES:
        shape = SHAPES[name]
        vocabulary, context, windows = shape[5], shape[7], shape[8]
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            write_model(root, shape)
            generator = random.Random(2)
            tokens = root / "tokens.u16"
            with open(tokens, "wb") as file:
                array.array("H", (generator.randrange(vocabulary)
                                  for _ in range(context * windows))).tofile(file)
            batch = max(1, 2048 // context)
            own = [arguments.fewbit, "eval", str(root), "--tokens", str(tokens), "--rule",
                   "concat_no_bos", "--context", str(context), "--threads", str(arguments.threads),
                   "--json"]
            peer = [arguments.python, str(eager), str(root), str(tokens), str(context), str(batch),
                    str(arguments.threads)]
            rates, peer_rates, losses = [], [], set()
            for _ in range(arguments.repeats):
                done = json.loads(subprocess.run(own, check=True, capture_output=True).stdout)
                rates.append(done["result"]["tokens_per_second"])
                losses.add(round(done["result"]["loss_nats_per_token"]["value"], 4))
                done = json.loads(subprocess.run(peer, check=True, capture_output=True).stdout)
                peer_rates.append(done["tokens_per_second"])
                losses.add(round(done["loss"], 4))
            ratios = [a / b for a, b in zip(rates, peer_rates)]
            print(json.dumps({
                "shape": name, "threads": arguments.threads, "torch": done["torch"],
                "losses": sorted(losses),
                "fewbit_tokens_per_second": round(statistics.median(rates)),
                "eager_tokens_per_second": round(statistics.median(peer_rates)),
                "median_ratio": round(statistics.median(ratios), 3),
                "ratios": [round(r, 3) for r in ratios]}), flush=True)


if __name__ == "__main__":
    main()
