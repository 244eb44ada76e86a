"""fewbit run and fewbit chat as a user meets them: text, streams, stops, templates, Ctrl-C, errors."""
import json
import pathlib
import signal
import subprocess
import tempfile
import time
import unittest

from support import FEWBIT, run, run_json, tiny_model

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class RunTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.folder.name)
        cls.model = tiny_model(cls.root / "model")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def generate(self, *arguments):
        return run_json("run", self.model, "--prompt", "the and of", *arguments)

    def test_text_goes_to_standard_output_and_rates_to_standard_error(self):
        done = run("run", self.model, "--prompt", "the and of", "-n", 12)
        report = self.generate("-n", 12)
        self.assertEqual(done.stdout, report["text"] + "\n")
        self.assertIn("tokens/s", done.stderr)
        self.assertEqual(len(report["tokens"]), 12)
        self.assertEqual(report["finish_reason"], "length")
        self.assertEqual(report["usage"]["completion_tokens"], 12)
        quiet = run("run", self.model, "--prompt", "the and of", "-n", 12, "--quiet")
        self.assertEqual((quiet.stdout, quiet.stderr), (done.stdout, ""))

    def test_the_seed_decides_and_the_threads_do_not(self):
        once = self.generate("--seed", 5, "-n", 24)["tokens"]
        self.assertEqual(self.generate("--seed", 5, "-n", 24, "--threads", 3)["tokens"], once)
        self.assertNotEqual(self.generate("--seed", 6, "-n", 24)["tokens"], once)
        greedy = self.generate("--temperature", 0, "-n", 24)["tokens"]
        self.assertEqual(self.generate("--temperature", 0, "-n", 24, "--seed", 9)["tokens"], greedy)
        self.assertEqual(self.generate("--top-k", 1, "-n", 24)["tokens"], greedy)

    def test_a_quantized_model_and_a_gguf_file_run(self):
        quantized = self.root / "quantized"
        run("quantize", self.model, "--recipe", "rtn:bits=4,group_size=32", "-o", quantized)
        report = run_json("run", quantized, "--prompt", "the", "-n", 8)
        self.assertEqual(len(report["tokens"]), 8)
        self.assertLess(report["bytes_per_token"], self.generate("-n", 1)["bytes_per_token"])

    def test_stop_strings_end_the_text_before_them(self):
        whole = self.generate("-n", 40)["text"]
        stop = whole[5:8]
        report = self.generate("-n", 40, "--stop", stop)
        self.assertEqual(report["text"], whole[: whole.index(stop)])
        self.assertEqual(report["finish_reason"], "stop")

    def test_a_bias_forbids_a_token(self):
        first = self.generate("--temperature", 0, "-n", 1)["tokens"][0]
        other = self.generate("--temperature", 0, "-n", 1, "--logit-bias", f"{first}=-inf")
        self.assertNotEqual(other["tokens"][0], first)

    def test_prompts_come_from_files_and_standard_input(self):
        path = self.root / "prompt.txt"
        path.write_text("the and of")
        expected = self.generate("-n", 6)["tokens"]
        self.assertEqual(
            run_json("run", self.model, "--prompt-file", path, "-n", 6)["tokens"], expected)
        piped = run("run", self.model, "-f", "-", "-n", 6, "--json", input="the and of")
        self.assertEqual(json.loads(piped.stdout)["tokens"], expected)

    def test_what_is_wrong_is_said(self):
        for arguments, words in (
            ([], "--prompt"),
            (["--prompt", "a", "--temperature", -1], "temperature"),
            (["--prompt", "a", "--logit-bias", "x"], "TOKEN=BIAS"),
            (["--prompt", "a " * 100, "--context", 20], "context of 20"),
            (["--prompt", "a", "--stop", ""], "stop"),
            (["--prompt", "a", "--repetition-penalty", 0], "repetition_penalty"),
        ):
            with self.subTest(arguments=arguments):
                self.assertIn(words, run("run", self.model, *arguments, expect=2).stderr)
        self.assertIn("nowhere", run("run", self.root / "nowhere", "--prompt", "a", expect=2).stderr)

    def test_ctrl_c_ends_the_text_with_130(self):
        process = subprocess.Popen(
            [FEWBIT, "run", str(self.model), "--prompt", "the", "-n", "100000000", "--ignore-eos",
             "--context", "1000000"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.assertTrue(process.stdout.read(1))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 130, errors)
        self.assertIn("tokens/s", errors)

    def test_chat_needs_a_template_and_keeps_what_it_has_read(self):
        self.assertIn("chat template", run("chat", self.model, "-m", "the", expect=2).stderr)
        path = self.root / "chatml.jinja"
        path.write_text(CHATML)
        options = ["--template", path, "-n", 4, "--context", 128]
        first = run("chat", self.model, "-m", "the", "--print-prompt", *options)
        self.assertIn("<|im_start|>user\nthe<|im_end|>\n<|im_start|>assistant\n", first.stderr)
        both = run("chat", self.model, *options, input="the\n\nof\n/reset\nthe\n/quit\nno\n")
        self.assertIn("kept", both.stderr)
        self.assertTrue(both.stdout.startswith(first.stdout))
        # Behind /reset the first message gets its first answer again.
        self.assertTrue(both.stdout.endswith(first.stdout))
        self.assertEqual(both.stderr.count("tokens/s"), both.stderr.count("prompt") * 2)

    def test_a_template_that_refuses_says_so(self):
        path = self.root / "refuses.jinja"
        path.write_text("{{ raise_exception('roles must alternate') }}")
        done = run("chat", self.model, "-m", "the", "--template", path, expect=2)
        self.assertIn("roles must alternate", done.stderr)


if __name__ == "__main__":
    unittest.main()
