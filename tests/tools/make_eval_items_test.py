"""Tests of tests/bench/make_eval_items.py, without a model."""

import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).parent.parent / "bench" / "make_eval_items.py"


def run(*arguments):
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True,
                          check=False)


def items(*arguments):
    result = run(*arguments)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


class MakeEvalItemsTest(unittest.TestCase):
    def test_same_arguments_give_the_same_bytes(self):
        small = ("--per_cell", "2", "--lengths", "600")
        self.assertEqual(run(*small).stdout, run(*small).stdout)
        self.assertNotEqual(run(*small).stdout, run(*small, "--seed", "21").stdout)

    def test_every_item_has_the_fields_and_its_answer(self):
        made = items("--per_cell", "3", "--lengths", "600,1200", "--tasks", "passkey,niah,kv,mixed")
        self.assertEqual(len(made), 4 * 2 * 3)
        self.assertEqual(len({item["id"] for item in made}), len(made))
        for item in made:
            fields = ["answers", "id", "length_tokens", "prompt", "task"]
            if item["task"] != "passkey":
                fields[4:4] = ["second_answers", "second_question"]
                self.assertNotEqual(item["second_answers"], item["answers"])
                self.assertEqual(item["prompt"].count(item["second_answers"][0]), 1)
                self.assertNotIn(item["second_answers"][0], item["second_question"])
            self.assertEqual(sorted(item), fields)
            self.assertEqual(len(item["answers"]), 1)
            # The pass key's sentence says it twice; nothing else may look like the answer.
            count = item["prompt"].count(item["answers"][0])
            self.assertEqual(count, 2 if item["task"] == "passkey" else 1)
            # The question is last and does not give the answer away.
            self.assertNotIn(item["answers"][0], item["prompt"].split("\n\n")[-1])

    def test_depths_are_spread_over_the_prompt(self):
        made = items("--per_cell", "10", "--lengths", "2000", "--tasks", "kv")
        depths = [item["prompt"].index(item["answers"][0]) / len(item["prompt"]) for item in made]
        self.assertLess(min(depths), 0.2)
        self.assertGreater(max(depths), 0.8)
        self.assertEqual(depths, sorted(depths))

    def test_text_file_replaces_the_grammar(self):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("\n\n".join(f"This is paragraph {i % 100} of a text of our own making."
                                   for i in range(60)))
            file.flush()
            made = items("--per_cell", "1", "--lengths", "600", "--text", file.name)
        self.assertIn("of a text of our own making", made[0]["prompt"])

    def test_wrong_arguments_are_refused(self):
        self.assertNotEqual(run("--tasks", "riddle").returncode, 0)
        with tempfile.NamedTemporaryFile("w") as empty:
            self.assertNotEqual(run("--text", empty.name).returncode, 0)


if __name__ == "__main__":
    unittest.main()
