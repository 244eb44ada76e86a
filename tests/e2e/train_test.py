"""fewbit train: kills at random moments, threads and dtypes, wrong suites."""
import json
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from support import EXAMPLES, FEWBIT, run, run_json, write_text

SUITE = """
text = ["text.txt"]
context = 32
sequences = 8
shards = 2
checkpoint_tokens = [8192, 16384]

[schedule]
kind = "cosine"
warmup_steps = 10

[[model]]
name = "small"
layers = 2
hidden = 32
heads = 2
learning_rate = 4e-3
tokens = 61440

[[model]]
name = "wide"
layers = 1
hidden = 48
heads = 4
tied_head = true
learning_rate = 3e-3
tokens = 30720
"""

# Half the budget in full precision, then two bits; and three bits with other layers from the start.
LOW_BIT = SUITE.replace("[[model]]\nname = \"small\"", """[training]
qat_share = 0.5

[[model]]
name = "small"
quantizer = "paretoq:bits=2"
activations = "lsq:bits=8\"""").replace('name = "wide"', """name = "wide"
quantizer = "lsq:bits=3 | paretoq:bits=1,layers=blocks.*.mlp.down | minmax:bits=8,layers=embed"
qat_share = 1.0""")


def weights(folder):
    """Every file of every checkpoint."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("checkpoints/*/*"))
    }


class TrainTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.folder.name)
        write_text(cls.root / "text.txt", words=20000)
        cls.suite = cls.root / "suite.toml"
        cls.suite.write_text(SUITE)
        run("train", cls.suite, "-o", cls.root / "undisturbed")
        cls.expected = weights(cls.root / "undisturbed")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_checkpoints_are_models_that_say_how_they_came_to_be(self):
        names = sorted(p.name for p in (self.root / "undisturbed/small/checkpoints").iterdir())
        self.assertEqual(names, ["000000008192", "000000016384", "000000061440"])
        model = self.root / "undisturbed/small/checkpoints/000000016384"
        report = run_json("inspect", model)
        self.assertEqual(report["training"]["tokens"], 16384)
        self.assertEqual(report["training"]["step"], 64)
        losses = [
            run_json("eval", self.root / f"undisturbed/small/checkpoints/{name}", "--data",
                     self.root / "text.txt", "--context", 32, "--max-windows", 50)["result"]
            ["loss_nats_per_token"]["value"]
            for name in names
        ]
        self.assertGreater(losses[0], losses[1])
        self.assertGreater(losses[1], losses[2])

    def test_kills_at_random_moments_end_in_the_same_bits(self):
        generator = random.Random(7)
        out = self.root / "killed"
        kills = 0
        while kills < 20:
            process = subprocess.Popen(
                [FEWBIT, "train", self.suite, "-o", out, "--state-interval", "0.05"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(generator.uniform(0.05, 0.7))
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        self.assertGreater(kills, 0)
        run("train", self.suite, "-o", out)
        self.assertEqual(weights(out), self.expected)

    def test_interrupt_ends_with_130_and_the_same_command_goes_on(self):
        out = self.root / "interrupted"
        process = subprocess.Popen([FEWBIT, "train", self.suite, "-o", out],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # However long a loaded machine takes to get there.
        while not list(out.glob("*/log.csv")) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        self.assertIn(process.wait(timeout=60), (130, 0))
        run("train", self.suite, "-o", out)
        self.assertEqual(weights(out), self.expected)

    def test_the_number_of_threads_does_not_change_a_bit(self):
        for threads in ("1", "3"):
            out = self.root / f"threads{threads}"
            run("train", self.suite, "-o", out, "--workers", "1",
                env={"FEWBIT_THREADS": threads, "PATH": "/usr/bin:/bin"})
            self.assertEqual(weights(out), self.expected)

    def test_another_configuration_is_not_mixed_into_a_run(self):
        out = self.root / "mixed"
        shutil.copytree(self.root / "undisturbed", out)
        other = self.root / "other.toml"
        other.write_text(SUITE.replace("4e-3", "5e-3"))
        self.assertIn("another configuration", run("train", other, "-o", out, expect=2).stderr)
        self.assertEqual(weights(out), self.expected)

    def test_bf16_products_learn_as_f32_does(self):
        suite = self.root / "bf16.toml"
        suite.write_text('dtype = "bf16"\n' + SUITE)
        wide = {r["run"]: r["loss"] for r in run_json("train", suite, "-o", self.root / "bf16")}
        plain = {r["run"]: r["loss"]
                 for r in run_json("train", self.suite, "-o", self.root / "undisturbed")}
        for name, loss in plain.items():
            self.assertAlmostEqual(wide[name], loss, delta=0.03)

    def test_low_bit_runs_survive_kills_and_threads_to_the_bit(self):
        suite = self.root / "low_bit.toml"
        suite.write_text(LOW_BIT)
        run("train", suite, "-o", self.root / "low", env={"FEWBIT_THREADS": "1", "PATH": "/usr/bin"})
        expected = weights(self.root / "low")
        generator = random.Random(11)
        out = self.root / "low_killed"
        for _ in range(6):
            process = subprocess.Popen(
                [FEWBIT, "train", suite, "-o", out, "--state-interval", "0.05"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(generator.uniform(0.1, 1.0))
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
        run("train", suite, "-o", out)
        self.assertEqual(weights(out), expected)

        model = self.root / "low/small/checkpoints/000000061440"
        report = run_json("inspect", model)
        self.assertEqual(report["training"]["quantizer"], "paretoq:bits=2")
        self.assertEqual(report["training"]["bits"], 2)
        self.assertEqual(report["training"]["tokens"], 61440)
        self.assertEqual(report["training"]["quantized_tokens"], 30720)
        loss = run_json("eval", model, "--data", self.root / "text.txt", "--context", 32,
                        "--max-windows", 200)["result"]["loss_nats_per_token"]["value"]
        log = (self.root / "low/small/log.csv").read_text().splitlines()
        trained = [float(line.split(",")[3]) for line in log[-40:]]
        self.assertAlmostEqual(loss, sum(trained) / len(trained), delta=0.1)
        # The first half is in full precision, and its checkpoint a Hugging Face directory.
        self.assertIn("hidden_size", json.loads(
            (self.root / "low/small/checkpoints/000000016384/config.json").read_text()))
        mixed = run_json("inspect", self.root / "low/wide/checkpoints/000000030720")
        self.assertGreater(mixed["training"]["bits"], 3)

    def test_a_run_goes_on_from_another_ones_checkpoint(self):
        suite = self.root / "fine.toml"
        start = self.root / "undisturbed/small/checkpoints/000000061440"
        suite.write_text(f"""
text = ["text.txt"]
context = 32
sequences = 8
shards = 2
[training]
tokens = 8192
[[model]]
name = "fine"
init = "{start}"
quantizer = "paretoq:bits=4"
learning_rate = 3e-4
[[model]]
name = "control"
init = "{start}"
learning_rate = 3e-4
""")
        results = {r["run"]: r for r in run_json("train", suite, "-o", self.root / "fine")}
        self.assertEqual(results["fine"]["tokens"], 8192)
        self.assertLess(abs(results["fine"]["loss"] - results["control"]["loss"]), 0.1)
        end = run_json("inspect", self.root / "fine/fine/checkpoints/000000008192")
        self.assertEqual(end["training"]["start"], run_json("inspect", start)["hash"])

    def test_every_way_of_low_bit_training_runs_from_a_suite(self):
        suite = self.root / "ways.toml"
        start = self.root / "undisturbed/small/checkpoints/000000061440"
        suite.write_text(f"""
text = ["text.txt"]
context = 32
sequences = 8
shards = 2
[training]
tokens = 4096
[distillation]
cross_entropy_share = 0.5
hidden_weight = 0.1
[block_training]
sequences = 16
epochs = 1
[zeroth_order]
epsilon = 1e-3
layers = "blocks"
[spikes]
save_steps = 5
[[model]]
name = "taught"
init = "{start}"
quantizer = "paretoq:bits=2"
learning_rate = 1e-3
train_blocks = false
forward_only = false
[[model]]
name = "scales"
init = "{start}"
quantizer = "efficientqat:bits=2,group_size=32"
learning_rate = 1e-3
trained = "scales"
distill = false
forward_only = false
[[model]]
name = "forward"
init = "{start}"
quantizer = "minmax:bits=4"
learning_rate = 1e-5
distill = false
train_blocks = false
""")
        out = self.root / "ways"
        results = {r["run"]: r for r in run_json("train", suite, "-o", out)}
        for name in ("taught", "scales", "forward"):
            model = out / name / "checkpoints/000000004096"
            loss = run_json("eval", model, "--data", self.root / "text.txt", "--context", 32,
                            "--max-windows", 50)["result"]["loss_nats_per_token"]["value"]
            self.assertLess(loss, 5)
        self.assertAlmostEqual(results["forward"]["loss"], loss, delta=0.3)
        slopes = (out / "forward/slopes.csv").read_text().splitlines()
        self.assertEqual(len(slopes), 1 + 4096 // 256)

        ranges = run_json("train", self.suite, "--lr-range", "1e-5:10", "--lr-steps", "40", "-o",
                          self.root / "ranges")
        for entry in ranges:
            self.assertLess(1e-5, entry["suggested"])
            self.assertLess(entry["suggested"], entry["lowest"])
            self.assertIn("learning_rate,loss,smoothed",
                          (self.root / f"ranges/{entry['run']}-lr-range.csv").read_text())
        self.assertIn("FROM:TO", run("train", self.suite, "--lr-range", "3", expect=2).stderr)
        plan = {entry["run"]: entry for entry in run_json("train", suite, "--dry-run")}
        self.assertGreater(plan["taught"]["seconds"], 0)
        self.assertGreater(plan["taught"]["memory_bytes"], plan["scales"]["memory_bytes"])
        self.assertGreater(plan["forward"]["packed_bytes"], plan["taught"]["packed_bytes"])

    def test_a_bpe_vocabulary_is_trained_and_saved(self):
        suite = self.root / "bpe.toml"
        suite.write_text(SUITE.replace("[schedule]", "[tokenizer]\nkind = 'bpe'\n"
                                       "vocabulary = 300\n\n[schedule]", 1))
        run("train", suite, "-o", self.root / "bpe")
        model = self.root / "bpe/small/checkpoints/000000061440"
        self.assertLessEqual(run_json("inspect", model)["spec"]["vocab_size"], 300)
        run("eval", model, "--data", self.root / "text.txt", "--context", "32",
            "--max-windows", "5")

    def test_wrong_suites_are_refused_with_the_key(self):
        for text, key in (
            (SUITE.replace("heads = 2", "heads = 5"), "heads"),
            (SUITE.replace("kind = \"cosine\"", "kind = \"sine\""), "kind"),
            (SUITE.replace("context", "contxt"), "contxt"),
            (SUITE.replace("\"wide\"", "\"small\""), "small"),
            (SUITE.replace("text.txt", "absent.txt"), "absent.txt"),
            (SUITE.replace("layers = 2", "layers = 2\nquantizer = 'paretoq:bits=9'"), "bits"),
            (SUITE.replace("layers = 2", "layers = 2\nquantizer = 'pareto'"), "paretoq"),
            (SUITE.replace("layers = 2", "layers = 2\nactivations = 'absmax'"), "activations"),
            (SUITE.replace("layers = 2", "layers = 2\nquantizer = 'lsq'\nqat_share = 2.0"),
             "qat_share"),
            (SUITE.replace("layers = 2", "init = 'absent.gguf'"), "absent.gguf"),
            (SUITE.replace("layers = 2", "layers = 2\ndistill = true"), "distill"),
            (SUITE + "quantizer = 'lsq'\n[distillation]\ndivergence = 'sideways'", "divergence"),
            (SUITE + "quantizer = 'lsq'\n[distillation]", "self"),
            (SUITE + "[zeroth_order]\nepsilon = 0", "epsilon"),
            (SUITE + "[spikes]\nwindow = 0", "window"),
        ):
            with self.subTest(key=key):
                suite = self.root / "wrong.toml"
                suite.write_text(text)
                done = run("train", suite, "-o", self.root / "wrong", expect=2)
                self.assertIn(key, done.stderr)

    def test_the_examples_are_valid(self):
        for suite in EXAMPLES.rglob("suite*.toml"):
            self.assertIn("checkpoints", run("train", suite, "--dry-run").stdout)


if __name__ == "__main__":
    unittest.main()
