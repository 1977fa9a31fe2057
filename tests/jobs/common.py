"""What the tests of whole programs share."""
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

BIN = os.environ["QUADRAT_BIN"]
TILES = os.path.join(os.environ["QUADRAT_SHARED"], "data", "tiles", "ucmerced6")


def need_real_tiles():
    if os.path.isdir(TILES):
        return
    if os.environ.get("CI") == "true":
        sys.exit(f"no real tiles in {TILES}")
    print(f"SKIPPED: no real tiles in {TILES}")
    sys.exit(0)


# Root reads and writes whatever the permissions are, unless it gives that right up.
WITHIN_PERMISSIONS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


def command(program, *arguments, ranks=None, within_permissions=False):
    words = [os.path.join(BIN, program), *map(str, arguments)]
    if within_permissions:
        words = WITHIN_PERMISSIONS + words
    if ranks is not None:
        words = ["mpirun", "-n", str(ranks), *words]
    return words


def run(program, *arguments, ranks=None, expect=0, within_permissions=False, **keywords):
    words = command(program, *arguments, ranks=ranks, within_permissions=within_permissions)
    done = subprocess.run(words, capture_output=True, text=True, **keywords)
    assert done.returncode == expect, f"{program} {arguments}: exit {done.returncode}, not {expect}\n{done.stdout}{done.stderr}"
    return done


class InFolder(unittest.TestCase):
    """Each test runs in an empty folder of its own."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="quadrat-test-")
        self.before = os.getcwd()
        os.chdir(self.folder)

    def tearDown(self):
        os.chdir(self.before)
        shutil.rmtree(self.folder)

    def fails(self, status, *parts, program, arguments, ranks=None, within_permissions=False):
        """Ends with the status and one line on stderr that holds every part."""
        done = run(program, *arguments, ranks=ranks, expect=status, within_permissions=within_permissions)
        # Where /sys is not mounted (a bare tree), Open MPI's hwloc says so before the program can.
        lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("[hwloc/")]
        if ranks is not None:  # mpirun adds its own
            lines = [line for line in lines if line.startswith(program)]
        self.assertEqual(len(lines), 1, done.stderr)
        for part in parts:
            self.assertIn(part, lines[0])
        self.assertEqual(done.stdout, "")
        return lines[0]
