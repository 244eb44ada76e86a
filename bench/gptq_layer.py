#!/usr/bin/python3
"""GPTQ of one layer: fewbit against the reference algorithm written plainly in PyTorch.

Both get the same weights, Hessian and number of threads, and run alternately; the clock starts when
the Hessian is there and stops when the quantised layer is.

    apt-get install python3-torch
    ninja -C build/release fewbit_gptq_layer
    bench/gptq_layer.py build/release/bench/fewbit_gptq_layer
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program", help="the built fewbit_gptq_layer")
    parser.add_argument("--out", type=int, default=4096)
    parser.add_argument("--in", type=int, default=4096, dest="inputs")
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--clip", choices=["none", "mse"], default="none")
    parser.add_argument("--block-size", type=int, default=128)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--skip-reference", action="store_true")
    return parser.parse_args()


options = arguments()
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "FEWBIT_THREADS"):
    os.environ[variable] = str(options.threads)
import torch  # noqa: E402  (reads the variables above)

torch.set_num_threads(options.threads)


def find_grid(x, bits, mse):
    """Asymmetric min-max grid of every row; with the clipping search if `mse`."""
    top = 2**bits - 1
    low = torch.clamp(x.min(dim=1).values, max=0)
    high = torch.clamp(x.max(dim=1).values, min=0)
    empty = (low == 0) & (high == 0)
    low[empty], high[empty] = -1, 1
    scale = (high - low) / top
    zero = torch.round(-low / scale)
    if mse:
        best = torch.full_like(low, float("inf"))
        for i in range(80):
            p = 1 - i / 100
            s = p * (high - low) / top
            z = torch.round(-p * low / s)
            q = quantize(x, s[:, None], z[:, None], top)
            error = (q - x).abs_().pow_(2.4).sum(dim=1)
            better = error < best
            best[better] = error[better]
            scale[better], zero[better] = s[better], z[better]
    return scale[:, None], zero[:, None]


def quantize(x, scale, zero, top):
    return scale * (torch.clamp(torch.round(x / scale) + zero, 0, top) - zero)


def reference(weights, hessian, bits, group_size, block_size, mse, damping=0.01):
    """Columns one by one in blocks, with lazy updates of the rest."""
    w, h = weights.clone(), hessian.clone()
    columns = w.shape[1]
    dead = torch.diag(h) == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    h.diagonal().add_(damping * torch.diag(h).mean())
    h = torch.linalg.cholesky(h)
    h = torch.cholesky_inverse(h)
    u = torch.linalg.cholesky(h, upper=True)
    result = torch.zeros_like(w)
    loss = 0.0
    top = 2**bits - 1
    for first in range(0, columns, block_size):
        last = min(first + block_size, columns)
        block = w[:, first:last].clone()
        errors = torch.zeros_like(block)
        inner = u[first:last, first:last]
        for i in range(last - first):
            if (first + i) % group_size == 0:
                group = w[:, first + i : first + i + group_size]
                scale, zero = find_grid(group, bits, mse)
            column = block[:, i]
            q = quantize(column[:, None], scale, zero, top).flatten()
            result[:, first + i] = q
            error = (column - q) / inner[i, i]
            block[:, i:] -= error[:, None].matmul(inner[i, i:][None, :])
            errors[:, i] = error
            loss += float((error**2).sum()) / 2
        w[:, last:] -= errors.matmul(u[first:last, last:])
    return result, loss


def make_layer():
    """Weights of unit variance; inputs that are correlated and of unequal size per feature."""
    torch.manual_seed(0)
    weights = torch.randn(options.out, options.inputs)
    mix = torch.randn(options.inputs, options.inputs) / options.inputs**0.5
    size = torch.exp(0.5 * torch.randn(options.inputs))
    hessian = torch.zeros(options.inputs, options.inputs)
    batch = 2048
    for _ in range(max(1, 2 * options.inputs // batch)):
        x = torch.randn(batch, options.inputs)
        x = (x + 2 * x.matmul(mix)) * size
        hessian += 2 * x.t().matmul(x)
    return weights, hessian


def summary(name, seconds):
    print(f"{name:10} median {statistics.median(seconds):7.3f} s   "
          f"runs {' '.join(f'{s:.3f}' for s in seconds)}")


def main():
    weights, hessian = make_layer()
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name, tensor in (("w", weights), ("h", hessian)):
            paths.append(os.path.join(folder, name + ".bin"))
            tensor.contiguous().numpy().tofile(paths[-1])
        program = subprocess.Popen(
            [options.program, *paths, str(options.out), str(options.inputs), str(options.bits),
             str(options.group_size), options.clip],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        ours, factor, theirs = [], [], []
        for _ in range(options.runs):
            program.stdin.write("run\n")
            program.stdin.flush()
            report = json.loads(program.stdout.readline())
            ours.append(report["seconds"])
            factor.append(report["factor_seconds"])
            if options.skip_reference:
                continue
            start = time.perf_counter()
            result, loss = reference(weights, hessian, options.bits, options.group_size,
                                     options.block_size, options.clip == "mse")
            theirs.append(time.perf_counter() - start)
        program.stdin.close()
        program.wait()
    print(f"[{options.out}, {options.inputs}], {options.bits} bits, group {options.group_size}, "
          f"clip {options.clip}, {options.threads} threads, torch {torch.__version__}")
    summary("fewbit", ours)
    summary("  factor", factor)
    if options.skip_reference:
        return
    summary("PyTorch", theirs)
    ratios = [t / o for t, o in zip(theirs, ours)]
    print(f"PyTorch / fewbit: {statistics.median(ratios):.2f}")
    difference = (weights - result).double()
    objective = float((difference.matmul(hessian.double()) * difference).sum())
    print(f"objective tr(dW H dW^t): fewbit {report['objective']:.6g}, PyTorch {objective:.6g}; "
          f"loss {report['loss']:.6g}, {loss:.6g}")


main()
