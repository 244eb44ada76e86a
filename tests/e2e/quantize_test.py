"""fewbit inspect, quantize and eval as a user meets them."""
import json
import pathlib
import signal
import struct
import subprocess
import tempfile
import time
import unittest

from support import (FEWBIT, run, run_json, tiny_model, wait_until_signals_are_handled,
                     write_text)


def layer_bytes(directory, report):
    """Bytes that the file gives to the tensors of the quantized layers."""
    raw = (directory / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    layers = [layer["layer"] + "." for layer in report["layers"]]
    return sum(
        tensor["data_offsets"][1] - tensor["data_offsets"][0]
        for name, tensor in header.items()
        if name != "__metadata__" and any(name.startswith(layer) for layer in layers)
    )


class QuantizeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.folder.name)
        cls.model = tiny_model(cls.root / "model")
        cls.calibration = write_text(cls.root / "calibration.txt", seed=1)
        cls.text = write_text(cls.root / "text.txt", seed=2)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def quantize(self, name, recipe, *more):
        return run_json("quantize", self.model, "--recipe", recipe, "-o", self.root / name, *more)

    def loss(self, model, *more):
        return run_json("eval", model, "--data", self.text, "--context", 64, *more)

    def test_every_method_gives_a_model_that_opens_and_its_true_size(self):
        recipes = {
            "rtn4": "rtn:bits=4,group_size=32",
            "rtn3s": "rtn:bits=3,group_size=16,symmetry=sym_signed,clip=mse",
            "gptq3": "gptq:bits=3,group_size=32,act_order=static",
            "gptq2d": "gptq:bits=2,group_size=16,act_order=dynamic",
            "nf4": "nf4",
            "nf4d": "nf4:double_quant=true",
            "fp4": "fp4",
            "gptqnf4": "gptq:format=nf4,blocks=rows,block_size=32",
            "hqq": "hqq:bits=3,group_size=32",
            "gptqhqq": "gptq:format=hqq,bits=2,group_size=32",
            "awq": "awq | gptq:bits=3,group_size=32,act_order=static",
            "awqclip": "awq:duo_scaling=true | clip | rtn:bits=3,group_size=32",
            "smooth": "smoothquant:alpha=0.8 | rtn:bits=4,group_size=32",
            "gptaq": "awq | gptaq:bits=3,group_size=32,alpha=0.5",
            "omniquant": "omniquant:bits=3,group_size=32,epochs=2,let=true",
            "autoround": "awq | autoround:bits=3,group_size=32,steps=10,batch=4",
            "mixed": "gptq:bits=2,group_size=32,layers=blocks.*.mlp.* | "
                     "rtn:bits=4,group_size=32,layers=blocks.*.attn.*+embed+head",
        }
        for name, recipe in recipes.items():
            with self.subTest(recipe=recipe):
                report = self.quantize(name, recipe, "--calib", self.calibration,
                                       "--calib-length", 64, "--calib-sequences", 8)
                self.assertAlmostEqual(report["bpw"] * report["quantized_weights"] / 8,
                                       report["stored_bytes"], places=3)
                self.assertEqual(report["stored_bytes"], layer_bytes(self.root / name, report))
                loss = self.loss(self.root / name)
                self.assertGreater(loss["result"]["loss_nats_per_token"]["value"], 0)

    def test_the_same_seed_gives_the_same_bytes_on_one_and_two_threads(self):
        bytes_of = []
        for threads in (1, 2):
            out = self.root / f"threads{threads}"
            run("quantize", self.model, "--recipe", "gptq:bits=3,group_size=16", "--calib",
                self.calibration, "--calib-length", 64, "--calib-sequences", 8, "-o", out,
                env={"FEWBIT_THREADS": str(threads), "PATH": "/usr/bin:/bin"})
            bytes_of.append((out / "model.safetensors").read_bytes())
        self.assertEqual(bytes_of[0], bytes_of[1])

    def test_bad_input_is_refused_before_anything_is_written(self):
        out = self.root / "never"
        cases = [
            ("--recipe", "gtpq:bits=3"),
            ("--recipe", "rtn:bits=9"),
            ("--recipe", "rtn:bit=3"),
            ("--recipe", "rtn:bits=3,layers=blocks.*.nothing"),
            ("--recipe", "gptq:bits=3"),  # no calibration text
            ("--recipe", "gptq:bits=3,layers=embed", "--calib", self.calibration),
            ("--recipe", "rtn | rtn"),
            ("--recipe", "hqq:axis=0"),
            ("--recipe", "omniquant:group_size=24", "--calib", self.calibration),
            ("--recipe", "autoround:symmetry=sym_offset", "--calib", self.calibration),
            ("--recipe", "gptaq:layers=embed", "--calib", self.calibration),
            ("--recipe", "awq"),  # no calibration text
            ("--recipe", "rtn", "--calib", self.root / "absent.txt"),
        ]
        for arguments in cases:
            with self.subTest(arguments=arguments):
                if arguments[-1] == self.root / "absent.txt":
                    arguments = ("--recipe", "gptq", *arguments[2:])
                done = run("quantize", self.model, *arguments, "-o", out, expect=2)
                self.assertTrue(done.stderr.startswith("error: "), done.stderr)
                self.assertFalse(out.exists())
        for model in (self.root / "nowhere", self.text):
            run("quantize", model, "--recipe", "rtn", "-o", out, expect=2)
        run("quantize", expect=2)
        run("no-such-verb", expect=2)
        self.assertEqual([p for p in self.root.iterdir() if p.name.startswith(".")], [])

    def test_an_existing_output_is_kept_unless_forced(self):
        out = self.root / "kept"
        run("quantize", self.model, "--recipe", "rtn:bits=4", "-o", out)
        before = (out / "model.safetensors").read_bytes()
        run("quantize", self.model, "--recipe", "rtn:bits=2", "-o", out, expect=2)
        self.assertEqual((out / "model.safetensors").read_bytes(), before)
        run("quantize", self.model, "--recipe", "rtn:bits=2", "-o", out, "--force")
        self.assertNotEqual((out / "model.safetensors").read_bytes(), before)

    def test_a_truncated_model_is_an_error_that_names_the_file(self):
        broken = tiny_model(self.root / "broken")
        file = broken / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        done = run("quantize", broken, "--recipe", "rtn", "-o", self.root / "never", expect=2)
        self.assertIn("model.safetensors", done.stderr)

    def test_interrupt_ends_with_130_and_leaves_nothing(self):
        big = tiny_model(self.root / "big", hidden=128, layers=12)
        out = self.root / "interrupted"
        process = subprocess.Popen(
            [FEWBIT, "quantize", big, "--recipe", "gptq:bits=3,group_size=32,clip=mse", "--calib",
             self.calibration, "--calib-length", "128", "--calib-sequences", "256", "-o", out],
            stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        wait_until_signals_are_handled(process)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
        if process.returncode == 0:
            self.skipTest("finished before the signal came")
        self.assertEqual(process.returncode, 130)
        self.assertFalse(out.exists())


if __name__ == "__main__":
    unittest.main()
