"""fewbit study, export, law and report on tiny random models, with kills in between."""
import csv
import io
import pathlib
import random
import resource
import signal
import subprocess
import tempfile
import time
import unittest

from support import FEWBIT, run, run_json, tiny_model, write_text

PLAN = """
title = "test"
checkpoints = ["models/*"]
recipes = ["rtn:bits=2,group_size=16", "rtn:bits=3,group_size=16", "gptq:bits=2,group_size=16", "nf4"]

[[dataset]]
name = "text"
path = "text.txt"
context = 64
max_windows = 20

[calibration]
path = "calibration.txt"
sequences = 4
length = 64
"""


class StudyTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.root = pathlib.Path(cls.folder.name)
        for hidden in (16, 32):
            for tokens in (1000, 2000, 4000):
                tiny_model(cls.root / f"models/{hidden}-{tokens}", seed=hidden + tokens,
                           tokens=tokens, hidden=hidden)
        write_text(cls.root / "text.txt", seed=3)
        write_text(cls.root / "calibration.txt", seed=4)
        cls.plan = cls.root / "study.toml"
        cls.plan.write_text(PLAN)
        run("study", cls.plan, "-o", cls.root / "undisturbed")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def rows(self, study):
        text = run("study", "export", study).stdout
        # What may differ between runs: the cost.
        volatile = ("wall_seconds", "quantize_seconds", "peak_bytes", "threads")
        return [
            {key: value for key, value in row.items() if key not in volatile}
            for row in csv.DictReader(io.StringIO(text))
        ]

    def test_every_combination_is_measured_once(self):
        rows = self.rows(self.root / "undisturbed")
        self.assertEqual(len(rows), 6 * 4)
        self.assertTrue(all(row["status"] == "done" for row in rows))
        self.assertEqual(len({(r["checkpoint"], r["recipe"]) for r in rows}), 24)
        self.assertTrue(all(float(row["qid_se"]) > 0 for row in rows))
        self.assertTrue(all(float(row["kl"]) > 0 for row in rows))

    def test_kills_at_random_moments_change_nothing(self):
        generator = random.Random(5)
        study = self.root / "killed"
        kills = 0
        while kills < 20:
            process = subprocess.Popen([FEWBIT, "study", self.plan, "-o", study, "--workers", "2"],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(generator.uniform(0.02, 0.6))
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        run("study", self.plan, "-o", study)
        self.assertEqual(self.rows(study), self.rows(self.root / "undisturbed"))
        self.assertEqual(list((study / "models").iterdir()), [])

    def test_a_disk_that_fills_up_loses_no_finished_job(self):
        study = self.root / "full"
        finished, refused = 0, 0
        for kibibytes in (24, 96, 160, 300, 600):
            # No file may grow beyond the limit: writes fail as they do on a full disk.
            def limit():
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (kibibytes << 10, kibibytes << 10))

            done = subprocess.run([FEWBIT, "study", self.plan, "-o", study, "--retry-failed"],
                                  capture_output=True, text=True, timeout=600, preexec_fn=limit)
            self.assertIn(done.returncode, (0, 2), done.stderr)
            if done.returncode == 2:
                refused += 1
                self.assertRegex(done.stderr, "full|too large|disk I/O")
            if (study / "study.sqlite").exists() and run("study", "status", study).returncode == 0:
                status = run_json("study", "status", study)
                self.assertGreaterEqual(status["done"], finished)
                finished = status["done"]
        self.assertGreater(refused, 1)
        self.assertGreater(finished, 0)
        run("study", self.plan, "-o", study, "--retry-failed")
        self.assertEqual(self.rows(study), self.rows(self.root / "undisturbed"))

    def test_a_failing_job_is_recorded_and_the_rest_runs(self):
        root = self.root / "failing"
        root.mkdir()
        tiny_model(root / "models/good", tokens=1000)
        tiny_model(root / "models/other", seed=2, tokens=2000)
        write_text(root / "text.txt")
        (root / "calibration.txt").write_text("x")  # one token: too short to calibrate on
        (root / "study.toml").write_text(PLAN)
        done = run("study", root / "study.toml", "-o", root / "study")
        self.assertIn("failed", done.stdout)
        status = run_json("study", "status", root / "study")
        self.assertEqual(status["failed"], 4)  # gptq of two models: quantize and measure
        self.assertEqual(status["pending"], 0)
        self.assertTrue(all(failure["error"] for failure in status["failures"]))
        write_text(root / "calibration.txt")
        run("study", root / "study.toml", "-o", root / "study")
        self.assertEqual(run_json("study", "status", root / "study")["failed"], 0)

    def test_wrong_plans_are_refused_with_the_key(self):
        for text, key in (
            (PLAN.replace("recipes", "recipies"), "recipies"),
            (PLAN.replace("models/*", "absent/*"), "absent"),
            (PLAN.replace("context = 64", "context = -1"), "context"),
            (PLAN.replace("bits=3", "bits=33"), "bits"),
            (PLAN + "\n[[dataset]]\nname = 'text'\npath = 'text.txt'\n", "text"),
            ("title = ", "study"),
        ):
            with self.subTest(key=key):
                plan = self.root / "wrong-study.toml"
                plan.write_text(text)
                done = run("study", plan, "-o", self.root / "wrong", expect=2)
                self.assertIn(key, done.stderr)

    def test_the_report_is_one_page_with_the_rows(self):
        page = self.root / "report.html"
        run("report", self.root / "undisturbed", "-o", page)
        text = page.read_text()
        self.assertIn("fewbit-data", text)
        self.assertNotIn("http://", text.replace("http://www.w3.org", ""))

    def test_a_store_of_another_schema_is_refused(self):
        import sqlite3

        study = self.root / "schema"
        run("study", self.plan, "-o", study)
        with sqlite3.connect(study / "study.sqlite") as database:
            database.execute("PRAGMA user_version = 99")
        self.assertIn("99", run("study", "status", study, expect=2).stderr)


if __name__ == "__main__":
    unittest.main()
