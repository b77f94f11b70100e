"""tq verify --paper: the report, its exit code, and what is refused. The verdicts of broken codecs: tests/test_paper.cpp."""
import helpers
from helpers import COULD_NOT, DONE, CliTest

CHECKS = {"theorem-1", "theorem-1-any-row", "theorem-3", "theorem-2-slope", "theorem-2-variance", "theorem-3-prod",
          "recall-1@1", "recall-1@8", "rank-correlation", "needle"}


class Paper(CliTest):
    def test_report(self):
        report = self.json("verify", "--paper", "--dim", 64, "--bits", 2, "--rows", 32768, "--seed", 7, "--json", "--quiet", code=DONE)
        self.assertEqual((report["status"], report["exit_code"], report["source"]), ("PASS", 0, "paper"))
        self.assertEqual((report["dims"], report["bits"], report["seed"], report["rows"]), ([64], [2], 7, 32768))
        self.assertEqual({check["check"] for check in report["checks"]}, CHECKS)
        for check in report["checks"]:
            with self.subTest(check=check["check"]):
                low, high = check["measured"]["interval"]
                self.assertLess(low, high)
                self.assertGreater(check["measured"]["samples"], 1000)
                self.assertEqual((check["seed"], check["verdict"]), (7, "holds"))
                self.assertTrue(check["control"]["noticed"])
                exact = check["limits"]["exact"]
                if exact is not None:
                    self.assertTrue(low <= exact <= high)
        mse = next(check for check in report["checks"] if check["check"] == "theorem-1")
        self.assertAlmostEqual(mse["measured"]["value"], 0.1145, delta=0.0008)
        self.assertAlmostEqual(mse["limits"]["upper"], 0.17004, delta=1e-4)
        self.assertAlmostEqual(mse["control"]["measured"]["value"], 0.198, delta=0.005)

    def test_several_dims_and_widths(self):
        done = self.tq("verify", "--paper", "--dim", 32, 48, "--bits", "1,4", "--rows", 16384, code=COULD_NOT)
        self.assertIn("TOO FEW ROWS", done.stdout)  # a slope to within 1 % takes more
        for dim in (32, 48):
            for bits in (1, 4):
                self.assertRegex(done.stdout, rf"(?m)^ +theorem-1 +{dim} +{bits} ")
        self.assertIn("qjl-slope: ", done.stdout)
        self.assertNotIn("VIOLATED", done.stdout)


if __name__ == "__main__":
    helpers.main()
