"""fewbit eval as a user meets it: rules, pairs, token files, sampled text, base files, errors."""
import json
import math
import pathlib
import struct
import tempfile
import unittest

from support import run, run_json, tiny_model, write_text

RULES = ("concat_no_bos", "concat_stream_bos", "window_bos", "second_half_bos",
         "second_half_no_bos", "strided", "rolling_prefix")


class EvalTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.folder.name)
        cls.model = tiny_model(cls.root / "model")
        cls.other = tiny_model(cls.root / "other", seed=2)
        cls.text = write_text(cls.root / "text.txt", seed=3)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def eval(self, *arguments):
        return run_json("eval", self.model, "--context", 32, *arguments)

    def test_every_rule_says_what_it_scored(self):
        for rule in RULES:
            with self.subTest(rule=rule):
                report = self.eval("--data", self.text, "--rule", rule, "--bos", 0)
                protocol, result = report["protocol"], report["result"]
                self.assertEqual(protocol["rule"], rule)
                self.assertEqual(protocol["scored_tokens"], result["scored_tokens"])
                self.assertEqual(len(result["window_nll"]), protocol["windows"])
                loss = result["loss_nats_per_token"]["value"]
                self.assertAlmostEqual(sum(result["window_nll"]) / result["scored_tokens"], loss)
                self.assertAlmostEqual(result["perplexity"]["value"], math.exp(loss))
                self.assertIn(f"rule={rule}", protocol["line"])
                # A random model knows little more than the size of the vocabulary.
                self.assertAlmostEqual(loss, math.log(report["vocabulary"]), delta=3)
        self.assertEqual(protocol["scored_tokens"], protocol["tokens"])

    def test_a_model_is_no_distance_from_itself(self):
        report = self.eval("--data", self.text, "--reference", self.model)
        self.assertEqual(report["qid"], {"value": 0, "standard_error": 0})
        self.assertEqual(report["kld"]["value"], 0)
        self.assertEqual(report["distance"]["same_top"], 1)

    def test_the_packed_engine_gives_the_loss_of_the_dequantized_model(self):
        quantized = self.root / "quantized"
        run("quantize", self.model, "--recipe", "rtn:bits=4,group_size=32", "-o", quantized)
        loss = lambda report: report["result"]["loss_nats_per_token"]["value"]
        for model in (self.model, quantized):
            floats = loss(run_json("eval", model, "--context", 32, "--data", self.text))
            packed = lambda kind: loss(run_json("eval", model, "--context", 32, "--data", self.text,
                                                "--engine", "packed", "--activations", kind))
            self.assertAlmostEqual(packed("f32"), floats, delta=1e-3)
            # Activations rounded to int8 change single predictions, hardly their mean.
            self.assertAlmostEqual(packed("int8"), floats, delta=2e-2)
        self.assertIn("--engine", run("eval", self.model, "--data", self.text, "--engine", "packed",
                                      "--streamed", expect=2).stderr)

    def test_a_pair_is_the_two_models_alone(self):
        pair = self.eval("--data", self.text, "--reference", self.other)
        alone = self.eval("--data", self.text)
        other = run_json("eval", self.other, "--context", 32, "--data", self.text)
        loss = lambda result: result["loss_nats_per_token"]["value"]
        self.assertAlmostEqual(loss(pair["result"]), loss(alone["result"]), places=6)
        self.assertAlmostEqual(loss(pair["reference_result"]), loss(other["result"]), places=6)
        self.assertAlmostEqual(pair["qid"]["value"], loss(alone["result"]) - loss(other["result"]),
                               places=6)
        self.assertGreater(pair["kld"]["value"], 0)
        self.assertLess(pair["distance"]["same_top"], 1)
        self.assertEqual(pair["protocol"], alone["protocol"])

    def test_threads_and_batches_change_nothing(self):
        runs = [self.eval("--data", self.text, "--threads", threads, *more)["result"]["window_nll"]
                for threads, more in ((1, ()), (2, ()), (2, ("--streamed",)))]
        self.assertEqual(runs[0], runs[1])
        self.assertEqual(runs[0], runs[2])
        for batch in (1, 3):
            batched = self.eval("--data", self.text, "--batch", batch)["result"]["window_nll"]
            for a, b in zip(runs[0], batched):
                self.assertAlmostEqual(a, b, delta=1e-4)

    def test_sampled_text_is_its_own_entropy_and_can_be_used_again(self):
        tokens = self.root / "sampled.safetensors"
        first = self.eval("--reference", self.other, "--sample", 300, "--seed", 5, "--bos", 1,
                          "--save-tokens", tokens)
        again = self.eval("--reference", self.other, "--sample", 300, "--seed", 5, "--bos", 1)
        self.assertEqual(first["result"]["window_nll"], again["result"]["window_nll"])
        self.assertEqual(first["protocol"]["windows"], 10)  # ceil(300 / 31)
        stored = self.eval("--reference", self.other, "--tokens", tokens, "--rule", "window_bos",
                           "--bos", 1)
        self.assertEqual(first["qid"], stored["qid"])
        self.assertGreater(first["qid"]["value"], 0)

    def test_token_files_of_ids(self):
        ids = [(7 * i) % 300 for i in range(200)]
        (self.root / "ids.u16").write_bytes(struct.pack("<200H", *ids))
        (self.root / "ids.jsonl").write_text(json.dumps(ids) + "\n")
        a = self.eval("--tokens", self.root / "ids.u16")
        b = self.eval("--tokens", self.root / "ids.jsonl")
        self.assertEqual(a["result"]["window_nll"], b["result"]["window_nll"])
        self.assertEqual(a["protocol"]["token_sha256"], b["protocol"]["token_sha256"])

    def test_a_base_file_stands_for_the_reference(self):
        base = self.root / "base.dat"
        for rule in ("second_half_no_bos", "second_half_bos"):
            with self.subTest(rule=rule):
                common = ("--context", 32, "--rule", rule, "--bos", 1)
                run_json("eval", self.other, "--data", self.text, *common, "--save-base-logits",
                         base)
                coded = run_json("eval", self.model, "--kl-base", base, *common)
                exact = run_json("eval", self.model, "--reference", self.other, "--data",
                                 self.text, *common)
                self.assertEqual(coded["protocol"]["windows"], exact["protocol"]["windows"])
                self.assertAlmostEqual(coded["kld"]["value"], exact["kld"]["value"], delta=1e-3)
                self.assertAlmostEqual(coded["qid"]["value"], exact["qid"]["value"], delta=1e-4)

    def test_a_damaged_base_file_is_refused(self):
        base = self.root / "short.dat"
        run_json("eval", self.model, "--data", self.text, "--context", 32, "--rule",
                 "second_half_no_bos", "--save-base-logits", base)
        base.write_bytes(base.read_bytes()[:-1])
        done = run("eval", self.model, "--kl-base", base, expect=2)
        self.assertIn("short.dat", done.stderr)

    def test_articles_give_figures_per_word_and_byte(self):
        text = self.root / "wiki.txt"
        text.write_text(" = One = \n \n Some text , here . \n = Two = \n \n Other text . \n")
        report = self.eval("--data", text, "--text-form", "articles", "--bos", 1)
        documents = report["documents"]
        self.assertEqual(documents["count"], 2)
        self.assertEqual(report["protocol"]["rule"], "rolling_prefix")
        nll = sum(report["result"]["window_nll"])
        self.assertAlmostEqual(documents["bits_per_byte"],
                               nll / documents["bytes"] / math.log(2))

    def test_the_report_file_is_the_json(self):
        file = self.root / "report.json"
        done = run("eval", self.model, "--data", self.text, "--context", 32, "-o", file)
        report = json.loads(file.read_text())
        self.assertIn(report["protocol"]["line"], done.stdout)
        for key in ("fewbit_version", "model", "data", "threads", "wall_seconds", "peak_bytes"):
            self.assertIn(key, report)

    def test_impossible_requests_are_refused(self):
        empty = self.root / "empty.txt"
        empty.write_text("")
        cases = (
            ((), "--data"),
            (("--data", self.text, "--sample", 5), "--data"),
            (("--data", self.text, "--rule", "concat"), "rolling_prefix"),
            (("--data", self.root / "absent"), "absent"),
            (("--data", empty), "0 tokens"),
            (("--data", self.text, "--context", 1), "context"),
            (("--data", self.text, "--rule", "strided", "--context", 8, "--stride", 9), "stride"),
            (("--data", self.text, "--context", 1000000), "1000000"),
            (("--data", self.text, "--reference", self.model, "--save-base-logits", "x"),
             "reference"),
            (("--data", self.text, "--device", "abacus"), "abacus"),
        )
        for arguments, word in cases:
            with self.subTest(arguments=arguments):
                done = run("eval", self.model, *arguments, expect=2)
                self.assertIn(word, done.stderr)
        run("eval", expect=2)


if __name__ == "__main__":
    unittest.main()
