"""fewbit law: the published table, a fit that finds its constants again, wrong input."""
import json
import pathlib
import tempfile
import unittest

from support import DATA, run, run_json


class LawTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.root = pathlib.Path(self.folder.name)

    def write_rows(self):
        """QiD = k D^beta / (N^alpha P^gamma) without noise, three runs."""
        lines = ["run,N,D,bits,qid,qid_se"]
        for params in (1e6, 4e6, 16e6):
            for tokens in (1e7, 3e7, 1e8, 3e8):
                for bits in (2, 3, 4):
                    qid = 0.02 * tokens**0.5 / (params**0.25 * bits**5)
                    lines.append(f"r{params:.0f},{params},{tokens},{bits},{qid!r},{qid / 1000!r}")
        path = self.root / "rows.csv"
        path.write_text("\n".join(lines) + "\n")
        return path

    def test_table_gives_the_48_published_numbers(self):
        published = json.loads((DATA / "scaling-laws/table1.json").read_text())
        printed = sorted(f"{entry['tokens_trillion']:.4f}" for entry in run_json("law", "table"))
        self.assertEqual(len(printed), 48)
        numbers = sorted(f"{row['tokens_trillion']:.4f}" for row in published["rows"])
        self.assertEqual(printed, numbers)

    def test_fit_finds_the_constants_and_predicts_with_them(self):
        rows = self.write_rows()
        fit = self.root / "fit.json"
        text = run("law", "fit", rows, "--bootstrap", "50", "--hold-out", "-o", fit).stdout
        self.assertIn("Without each run in turn", text)
        values = {entry["name"]: entry["value"]
                  for entry in json.loads(fit.read_text())["parameters"]}
        for name, expected in (("beta", 0.5), ("alpha", 0.25), ("gamma", 5.0)):
            self.assertAlmostEqual(values[name], expected, places=4)
        done = run("law", "predict", "--law", fit, "--params", "4M", "--tokens", "30M", "--bits", "3")
        expected = 0.02 * 3e7**0.5 / (4e6**0.25 * 3**5)
        self.assertAlmostEqual(float(done.stdout.split("QiD")[1].split()[0]), expected, places=4)
        self.assertNotIn("EXTRAPOLATION", done.stdout)
        far = run("law", "predict", "--law", fit, "--params", "7B", "--tokens", "1T", "--bits", "3")
        self.assertIn("EXTRAPOLATION", far.stdout)

    def test_wrong_input_names_place_and_allowed_values(self):
        rows = self.write_rows()
        self.assertIn("unified", run("law", "fit", rows, "--form", "unifed", expect=2).stderr)
        self.assertIn("weighted", run("law", "fit", rows, "--objective", "l2", expect=2).stderr)
        broken = self.root / "broken.csv"
        broken.write_text(rows.read_text().replace("1000000.0", "one million", 1))
        self.assertIn("broken.csv:2", run("law", "fit", broken, expect=2).stderr)
        run("law", "predict", "--params", "1B", "--tokens", "1T", "--bits", "two", expect=2)
        run("law", expect=2)


if __name__ == "__main__":
    unittest.main()
