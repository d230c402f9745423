"""Walk every door and notebook, and list the functions of the library that none of them enters.

    python tests/slow/journeys.py [--write]

They stand in `tests/slow/not_walked.txt`, each with the reason why it stays. A new one fails: give it a journey, or
remove it. `--write` writes the list, and keeps the reasons that are there. It takes about 25 minutes of one core.
"""

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

from tqdm.auto import tqdm

from edittools_course.scenarios.own_folder import own_folder

ROOT = Path(__file__).resolve().parents[2]
LIST = ROOT / "tests" / "slow" / "not_walked.txt"
NO_REASON = "?"
SETTINGS = f"""
[run]
patch = subprocess
parallel = true
sigterm = true
source = {ROOT / "edittools"}
"""


def doors(folder: Path) -> dict[str, list[list[str]]]:
    """Return the commands that walk each door; what they write goes to a folder."""
    python = sys.executable
    command = [python, "-m", "edittools.cli"]
    tests = [python, "-m", "pytest", "-q"]
    runpy.run_path(str(ROOT / "tests" / "readers_files.py"))["write_readers_files"](folder)
    example = own_folder("mini").root  # its classes are those of the reader's model
    model = ["--model", f"{folder}/my_model.py:load"]
    pair = [f"{folder}/{name}.png" for name in ("without", "with", "mask")]
    sets = ["--concept", f"{example}/tagged", "--clean", f"{example}/clean", "--out", f"{folder}/repair"]
    audit = [*command, "audit", "--demo", "--out", f"{folder}/audit"]
    notebooks = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("notebooks/[0-9]*.ipynb"))
    return {
        "the paper": [[python, "benchmarks/demo.py"]],
        "README and the guide": [[*tests, "tests/pages/test_docs.py"]],
        "edittools audit": [audit, [*audit, "--repair", "truck:1", "--masks-checked"]],
        "edittools repair and apply": [
            [*command, "repair", f"{folder}/ordinary", *model, "--exemplar", *pair, *sets],
            [*command, "apply", f"{folder}/repair/edit.safetensors", *model, "--out", f"{folder}/weights.safetensors"],
        ],
        "edittools desk": [[*tests, "tests/widgets/test_desk_browser.py", "tests/course/test_demo.py"]],
        "the mask editor": [[*tests, "tests/widgets/test_browser.py"]],
        "notebooks": [[python, "-m", "jupyter", "execute", "--timeout=3600", name] for name in notebooks],
    }


def walk(folder: Path) -> set[str]:
    """Walk the doors and return the functions that were not entered, such as "edits.Edit.save"."""
    settings = folder / "coverage.cfg"
    settings.write_text(SETTINGS)
    coverage = [sys.executable, "-m", "coverage"]
    options = [f"--rcfile={settings}", f"--data-file={folder}/walked"]
    environment = os.environ | {"EDITTOOLS_TIER": "mini", "EDITTOOLS_DEVICE": "cpu"}
    for door, commands in tqdm(doors(folder).items(), unit="door"):
        for command in commands:
            arguments = [*coverage, "run", *options, *command[1:]]
            done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{door}: {command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    subprocess.run([*coverage, "combine", "-q", *options], cwd=ROOT, check=True)
    report = folder / "walked.json"
    subprocess.run([*coverage, "json", "-q", *options, "-o", str(report)], cwd=ROOT, check=True)
    not_entered = set()
    for path, found in json.loads(report.read_text())["files"].items():
        module = ".".join(Path(path).relative_to("edittools").with_suffix("").parts)
        of_functions = {name: lines for name, lines in found["functions"].items() if name}
        not_entered |= {f"{module}.{name}" for name, lines in of_functions.items() if not lines["executed_lines"]}
    return not_entered


def main() -> None:
    """Read the command line, walk, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the list")
    options = parser.parse_args()
    lines = LIST.read_text().splitlines() if LIST.exists() else []
    reasons = dict(line.split(": ", 1) for line in lines)
    with tempfile.TemporaryDirectory() as folder:
        not_entered = walk(Path(folder))
    if options.write:
        LIST.write_text("".join(f"{name}: {reasons.get(name, NO_REASON)}\n" for name in sorted(not_entered)))
    new = not_entered - set(reasons)
    walked = set(reasons) - not_entered
    print(f"{len(not_entered)} functions are not entered, {len(new)} of them new")
    print(*(f"not entered: {name}" for name in sorted(new)), sep="\n")
    print(*(f"no longer on the list: {name}" for name in sorted(walked)), sep="\n")
    sys.exit(1 if new or walked else 0)


if __name__ == "__main__":
    main()
