"""Every architecture of the fixtures through quantize and eval, on token ids: none has a tokenizer."""
import pathlib
import random
import struct
import tempfile
import unittest

from support import DATA, run, run_json

RECIPES = {
    "rtn": "rtn:bits=4,group_size=16",
    "gptq": "gptq:bits=3,group_size=16",
    "nf4": "nf4:block_size=32",
}


class FamiliesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.folder.name)
        cls.models = sorted(path.parent for path in (DATA / "models").glob("*/config.json"))

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def token_file(self, model, seed):
        vocabulary = run_json("inspect", model)["spec"]["vocab_size"]
        generator = random.Random(seed)
        ids = [generator.randrange(vocabulary) for _ in range(400)]
        path = self.root / f"{model.name}-{seed}.u32"
        path.write_bytes(struct.pack(f"<{len(ids)}I", *ids))
        return path

    def test_every_family_is_quantized_and_measured(self):
        self.assertGreater(len(self.models), 10)
        for model in self.models:
            calibration, data = self.token_file(model, 1), self.token_file(model, 2)
            for name, recipe in RECIPES.items():
                with self.subTest(model=model.name, recipe=recipe):
                    out = self.root / f"{model.name}-{name}"
                    report = run_json("quantize", model, "--recipe", recipe, "-o", out,
                                      "--calib-tokens", calibration, "--calib-sequences", 8,
                                      "--calib-length", 32)
                    self.assertAlmostEqual(report["bpw"] * report["quantized_weights"] / 8,
                                           report["stored_bytes"], places=3)
                    measured = run_json("eval", out, "--reference", model, "--tokens", data,
                                        "--context", 32, "--rule", "concat_no_bos")
                    self.assertGreater(measured["kld"]["value"], 0)
                    self.assertLess(measured["kld"]["value"], 1)

    def test_a_model_calibrates_on_what_it_writes(self):
        model = next(path for path in self.models if path.name == "llama")
        bytes_of = []
        for name in ("first", "second"):
            report = run_json("quantize", model, "--recipe", "gptq:bits=3,group_size=16",
                              "--calib-sample", "--calib-sequences", 6, "--calib-length", 24,
                              "--seed", 3, "-o", self.root / name)
            self.assertEqual(report["calibration_tokens"], 6 * 24)
            bytes_of.append((self.root / name / "model.safetensors").read_bytes())
        self.assertEqual(*bytes_of)

    def test_impossible_calibrations_are_refused(self):
        model = next(path for path in self.models if path.name == "llama")
        bad = self.root / "bad.jsonl"
        bad.write_text("[1, 2, 9999999]\n")
        recipe = ("--recipe", "gptq:bits=4", "-o", self.root / "none")
        done = run("quantize", model, *recipe, "--calib-tokens", bad, expect=2)
        self.assertIn("9999999", done.stderr)
        done = run("quantize", model, *recipe, "--calib-tokens", bad, "--calib-sample", expect=2)
        self.assertIn("one of", done.stderr)
        done = run("quantize", model, *recipe, "--calib", bad, expect=2)
        self.assertIn("no tokenizer", done.stderr)
        self.assertFalse((self.root / "none").exists())


if __name__ == "__main__":
    unittest.main()
