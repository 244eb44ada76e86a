"""What the end-to-end tests share: running the program, making a tiny model that it opens."""
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import time

FEWBIT = os.environ["FEWBIT"]
DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
EXAMPLES = DATA.parent.parent / "examples"


def run(*arguments, expect=0, **options):
    """Runs the program; fails unless it exits with `expect`. Returns the finished process."""
    done = subprocess.run(
        [FEWBIT, *map(str, arguments)], capture_output=True, text=True, timeout=600, **options
    )
    if done.returncode != expect:
        raise AssertionError(
            f"fewbit {' '.join(map(str, arguments))}: exit {done.returncode}, expected {expect}\n"
            f"{done.stdout}\n{done.stderr}"
        )
    return done


def wait_until_signals_are_handled(process):
    """Returns once the program catches SIGINT: before that, the signal would just end it."""
    status = pathlib.Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt"))
        if int(caught.split()[1], 16) >> (signal.SIGINT - 1) & 1:
            return
        time.sleep(0.01)


def run_json(*arguments):
    return json.loads(run(*arguments, "--json").stdout)


def write_safetensors(path, tensors):
    """`tensors`: name -> (shape, list of floats); written as F32."""
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        raw = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def tiny_model(directory, seed=1, tokens=None, hidden=32, layers=2):
    """A random Llama with the tokenizer of the gpt2-style fixture; `tokens`: D in training.json."""
    directory.mkdir(parents=True)
    tokenizer = json.loads((DATA / "tokenizer/gpt2-style.tokenizer.json").read_text())
    vocabulary = len(tokenizer["model"]["vocab"]) + len(tokenizer.get("added_tokens", []))
    shutil.copy(DATA / "tokenizer/gpt2-style.tokenizer.json", directory / "tokenizer.json")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary,
        "hidden_size": hidden, "intermediate_size": 64, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 128, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "hidden_act": "silu", "torch_dtype": "float32",
    }
    (directory / "config.json").write_text(json.dumps(config))
    generator = random.Random(seed)

    def matrix(rows, cols):
        return [rows, cols], [generator.gauss(0, 0.3) for _ in range(rows * cols)]

    tensors = {"model.embed_tokens.weight": matrix(vocabulary, hidden)}
    for layer in range(layers):
        name = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{name}{norm}.weight"] = [hidden], [1.0] * hidden
        for linear, rows, cols in (
            ("self_attn.q_proj", hidden, hidden), ("self_attn.k_proj", hidden // 2, hidden),
            ("self_attn.v_proj", hidden // 2, hidden), ("self_attn.o_proj", hidden, hidden),
            ("mlp.gate_proj", 64, hidden), ("mlp.up_proj", 64, hidden),
            ("mlp.down_proj", hidden, 64),
        ):
            tensors[f"{name}{linear}.weight"] = matrix(rows, cols)
    tensors["model.norm.weight"] = [hidden], [1.0] * hidden
    tensors["lm_head.weight"] = matrix(vocabulary, hidden)
    write_safetensors(directory / "model.safetensors", tensors)
    if tokens is not None:
        record = {"run": f"tiny-{hidden}", "tokens": tokens, "step": tokens // 1000, "seed": seed}
        (directory / "training.json").write_text(json.dumps(record))
    return directory


def write_text(path, seed=0, words=6000):
    """Seeded nonsense of English words, enough for a few windows."""
    vocabulary = (
        "the of and to in a is that for it as was with be by on not he his but at are this have "
        "from or had an they which one you were all her she there would their we him been has"
    ).split()
    generator = random.Random(seed)
    path.write_text(" ".join(generator.choice(vocabulary) for _ in range(words)) + ".\n")
    return path
