"""fewbit train: kills at random moments, threads and dtypes, wrong suites."""
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

from support import (EXAMPLES, FEWBIT, run, run_json, wait_until_signals_are_handled,
                     write_text)

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
        wait_until_signals_are_handled(process)
        time.sleep(0.3)
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
