#!/usr/bin/python3
"""Bootstrap of the unified law: fewbit against SciPy, the same objective on the same rows.

QiD = k D^beta / (N^alpha P^gamma) is refitted to each resample of the rows by least squares on QiD
itself, from the optimum of all rows. SciPy does it twice, in as many processes as fewbit has threads:

  curve_fit  the resampled rows handed to scipy.optimize.curve_fit, as a study's script does it
  MINPACK    SciPy at its fastest: least_squares with method "lm", an analytic Jacobian, centred
             columns and repeated rows merged into weights

The three run alternately; the clock excludes reading the rows and the first fit. All must find the
same parameters and, within sampling error, the same standard errors.

    apt-get install python3-scipy
    ninja -C build/release fewbit_law_bootstrap
    bench/law_bootstrap.py build/release/bench/fewbit_law_bootstrap
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"  # tiny matrices: the processes are the parallelism
import numpy as np  # noqa: E402
from scipy.optimize import curve_fit, least_squares  # noqa: E402

TRUE = np.array([np.log(0.017), 0.5251, 0.2261, 5.4967])


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program", help="the built fewbit_law_bootstrap")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--noise", type=float, default=0.15)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def make_rows(count, noise):
    """Sizes, tokens and bit widths of the Pythia study, QiD of the published law times noise."""
    random = np.random.RandomState(0)
    sizes = np.array([85056000, 302311424, 805736448, 2517652480, 6444163072, 11327027200.0])
    n = sizes[random.randint(len(sizes), size=count)]
    d = np.exp(random.uniform(np.log(1e9), np.log(2e11), size=count))
    p = random.randint(2, 5, size=count).astype(float)
    design = np.stack([np.ones(count), np.log(d), -np.log(n), -np.log(p)], axis=1)
    return n, d, p, design, np.exp(design @ TRUE + noise * random.standard_normal(count))


def refit(design, qid, start, root_weight):
    def residual(x):
        return root_weight * (qid - np.exp(design @ x))

    def jacobian(x):
        return -(root_weight * np.exp(design @ x))[:, None] * design

    return least_squares(residual, start, jac=jacobian, method="lm").x


def law(columns, *parameters):
    return np.exp(np.dot(parameters, columns))


def curve_fit_draws(job):
    design, qid, start, seed, draws = job
    random = np.random.RandomState(seed)
    result = np.empty((draws, 4))
    for draw in range(draws):
        rows = random.randint(len(qid), size=len(qid))
        result[draw] = curve_fit(law, design[rows].T, qid[rows], p0=start)[0]
    return result


def minpack_draws(job):
    design, qid, start, seed, draws = job
    random = np.random.RandomState(seed)
    rows = len(qid)
    result = np.empty((draws, 4))
    for draw in range(draws):
        counts = np.bincount(random.randint(rows, size=rows), minlength=rows)
        kept = counts > 0
        result[draw] = refit(design[kept], qid[kept], start, np.sqrt(counts[kept]))
    return result


def summary(name, seconds):
    print(f"{name:9} median {statistics.median(seconds):8.4f} s   "
          f"runs {' '.join(f'{s:.4f}' for s in seconds)}")


def main():
    options = arguments()
    n, d, p, design, qid = make_rows(options.rows, options.noise)
    centre = design.mean(axis=0)
    centre[0] = 0
    centred = design - centre
    log_fit = np.linalg.lstsq(centred, np.log(qid), rcond=None)[0]
    start = refit(centred, qid, log_fit, np.ones(options.rows))

    def uncentred(x):
        y = np.array(x, copy=True)
        y[..., 0] -= x[..., 1:] @ centre[1:]
        return y

    with tempfile.TemporaryDirectory() as folder, \
            multiprocessing.Pool(options.threads) as pool:
        path = os.path.join(folder, "rows.csv")
        with open(path, "w") as file:
            file.write("N,D,bits,qid\n")
            for row in zip(n, d, p, qid):
                file.write(",".join(repr(float(x)) for x in row) + "\n")
        program = subprocess.Popen(
            [options.program, path, "linear", str(options.draws)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
            env={**os.environ, "FEWBIT_THREADS": str(options.threads)})
        share = -(-options.draws // options.threads)
        ours = []
        theirs = {"curve_fit": [], "MINPACK": []}
        draws = {}
        for run in range(options.runs + 1):
            program.stdin.write("\n")
            program.stdin.flush()
            report = json.loads(program.stdout.readline())
            jobs = [(centred, qid, start, run * options.threads + i,
                     min(share, options.draws - i * share)) for i in range(options.threads)]
            if run > 0:  # the first run warms all up
                ours.append(report["seconds"])
            for name, function in (("curve_fit", curve_fit_draws), ("MINPACK", minpack_draws)):
                begin = time.perf_counter()
                draws[name] = uncentred(np.concatenate(pool.map(function, jobs, chunksize=1)))
                if run > 0:
                    theirs[name].append(time.perf_counter() - begin)
        program.stdin.close()
        program.wait()

    difference = np.abs(np.array(report["params"]) - uncentred(start)).max()
    assert difference < 1e-5, f"the fits differ by {difference}"
    print(f"{options.draws} refits of {options.rows} rows, {options.threads} threads; parameters "
          f"agree to {difference:.1e}")
    summary("fewbit", ours)
    for name, seconds in theirs.items():
        errors = np.array(report["standard_errors"]) / draws[name].std(axis=0, ddof=1)
        assert np.all(np.abs(errors - 1) < 0.15), f"standard errors differ: {errors}"
        summary(name, seconds)
        ratio = statistics.median(a / b for a, b in zip(seconds, ours))
        print(f"  fewbit is {ratio:.1f} times as fast; standard errors within "
              f"{100 * np.abs(errors - 1).max():.1f} %")


if __name__ == "__main__":
    main()
