"""The command `edittools`: audit a folder of images, repair a model, open the desk, and apply an edit to weights.

What a command needs is imported when it runs, so that `edittools --help` answers at once.
"""

import argparse
import importlib
import os
import sys
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from edittools._paths import image_files, printable
from edittools.auditing.results_folder import SHEET, check_out
from edittools.auditing.window_names import parse_window_name
from edittools.models.zoo import NAME, parse_source

EXAMPLES = """examples:
  edittools audit photos --model efficientnet_lite0 --out audit
      photos/ has one subfolder per class, named after classes of the model
  edittools audit photos --model efficientnet_lite0 --repair "garbage truck:1"
      after a look at the report: the first window of this class does not belong to it
  edittools repair photos --model file.py:load --exemplar x.png x_tagged.png mask.png --concept tagged --clean clean
      select an edit with photos/, which need no labels, measure it on labeled photos, and write it
  edittools desk photos/tagged --model file.py:load --clean photos/clean
      open a page in the browser on which you mark what misleads the model, and rewrite it
"""

DESCRIPTION = "Audit a folder of images, repair a model, open the desk, and apply an edit to a model's weights."

DEMO = "edittools_course.scenarios.demo"
"""The module that renders the images of `--demo` and names their model."""

INTERRUPTED = 130
"""The exit code after Ctrl-C."""

ANOTHER_VERDICT = 3
"""The exit code of a repair whose verdict is not the one that `--require` names."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"edittools: {message}; see edittools --help\n")


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    layout = argparse.RawDescriptionHelpFormatter
    commands = _Parser("edittools", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=layout)
    commands.add_argument("--version", action="version", version=f"edittools {version('edittools')}")
    subparsers = commands.add_subparsers(dest="command", required=True, parser_class=_Parser)
    audit = subparsers.add_parser(
        "audit",
        help="show what carries each class in a folder of images, and write a report",
        epilog=EXAMPLES,
        formatter_class=layout,
    )
    audit.add_argument("folder", type=Path, nargs="?", help="images, in one subfolder per class")
    model_help = (
        "the name of a classifier of edittools, timm:NAME_OR_FOLDER, or FILE.py:FUNCTION, a function that returns a "
        "model and its class names"
    )
    audit.add_argument("--model", help=model_help)
    demo_help = (
        "instead of a folder and a model: rendered scenes, some with a yellow tag, from which a network of edittools "
        "predicts trucks"
    )
    audit.add_argument("--demo", action="store_true", help=demo_help)
    repair_help = (
        "the windows of the report that do not belong to their class, such as 'garbage truck:1': test whether they "
        "carry the class, and repair it"
    )
    audit.add_argument("--repair", metavar="CLASS:NUMBER", help=repair_help)
    audit.add_argument("--clean", type=Path, help="folder of images whose accuracy must not drop")
    audit.add_argument("--retain", type=Path, help="folder of images that rely on the mark legitimately")
    checked_help = (
        "say that the outlined photos show the mark: you have looked at the images above the verdict of the report"
    )
    audit.add_argument("--masks-checked", action="store_true", help=checked_help)
    force_help = "write to --out although it is not empty, and replace files of the same names as the results"
    audit.add_argument("--out", type=Path, default=Path("audit"), help="folder for the results (default: audit)")
    audit.add_argument("--force", action="store_true", help=force_help)
    repair = subparsers.add_parser(
        "repair",
        help="select an edit with one example and a folder of ordinary images, measure it, and write it",
        epilog=EXAMPLES,
        formatter_class=layout,
    )
    ordinary_help = "ordinary images, which select the edit without labels: at least 50, better 200 or more"
    repair.add_argument("folder", type=Path, help=ordinary_help)
    repair.add_argument("--model", required=True, help=model_help)
    exemplar_help = (
        "three images of one size: x, which is predicted correctly; x', the same image with the mark; "
        "and a mask, white where they differ"
    )
    names = ("X", "CHANGED", "MASK")
    repair.add_argument("--exemplar", type=Path, nargs=3, required=True, metavar=names, help=exemplar_help)
    concept_help = (
        "folder of images with the mark, classified correctly or not, in one subfolder per class; they measure"
    )
    repair.add_argument("--concept", type=Path, help=concept_help)
    failures_help = "say that the images of --concept were chosen because they are misclassified"
    repair.add_argument("--failures", action="store_true", help=failures_help)
    repair.add_argument("--clean", type=Path, help="folder of images whose accuracy must not drop; they measure")
    retained_help = "folder of images whose correct predictions must not change; they measure"
    repair.add_argument("--retain", type=Path, help=retained_help)
    repair.add_argument("--out", type=Path, default=Path("repair"), help="folder for the results (default: repair)")
    repair.add_argument("--force", action="store_true", help=force_help)
    require_help = f"exit with code {ANOTHER_VERDICT} after any other verdict; the results are written all the same"
    repair.add_argument("--require", choices=["use"], help=require_help)
    device_help = "such as cpu or cuda (default: that of EDITTOOLS_DEVICE, or cpu)"
    repair.add_argument("--device", help=device_help)
    desk = subparsers.add_parser(
        "desk",
        help="open a page in the browser: mark what misleads a model in an image, rewrite, and see the effect",
    )
    desk_folder_help = "images, some of them misclassified, in one subfolder per class"
    desk.add_argument("folder", type=Path, nargs="?", help=desk_folder_help)
    desk.add_argument("--model", help=model_help)
    desk.add_argument("--demo", action="store_true", help=demo_help)
    clean_help = "folder of ordinary images, at least 100: half select an edit, accuracy is measured on the others"
    desk.add_argument("--clean", type=Path, help=clean_help)
    desk.add_argument("--retain", type=Path, help="folder of images whose predictions should not change")
    marks_help = "folder of the marks, one PNG file per image (default: marks)"
    desk.add_argument("--marks", type=Path, default=Path("marks"), help=marks_help)
    apply = subparsers.add_parser("apply", help="write the weights of a model with an edit as a state dict")
    apply.add_argument("edit", type=Path, help="an edit that was saved, such as audit/edit.safetensors")
    apply.add_argument("--model", required=True, help=model_help)
    out_help = "file to write, such as weights.safetensors; the suffix is added to a name without one"
    apply.add_argument("--out", type=Path, required=True, help=out_help)
    apply.add_argument("--force", action="store_true", help="replace a file at --out, but never an input")
    apply.add_argument("--device", help=device_help)
    anyway_help = "write the weights even if the verdict on the edit is: do not use"
    apply.add_argument("--anyway", action="store_true", help=anyway_help)
    return commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of the command line.

    Args:
        arguments: the arguments; by default those of the process.

    Returns:
        The exit code: 0, 130 after Ctrl-C, 2 after an error, which is printed in one line, or 3 if the verdict of a
        repair is not the one that `--require` names.
    """
    options = parser().parse_args(arguments)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported: no spinning next to other programs
    command = {"audit": run_audit, "repair": run_repair, "desk": run_desk, "apply": run_apply}[options.command]
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return command(options)
        except KeyboardInterrupt:
            print("edittools: interrupted", file=sys.stderr)
            return INTERRUPTED
        except (OSError, ImportError, KeyError, TypeError, ValueError, RuntimeError) as error:
            message = error.args[0] if isinstance(error, KeyError) and error.args else error
            print(f"edittools: {' '.join(str(message).split())}", file=sys.stderr)
            return 2


def _complete(options: argparse.Namespace) -> None:
    """Fill in the folders and the model of `--demo`, or check that a folder and a model were given.

    Raises:
        ValueError: if they were given together with `--demo`, or are missing without it.
    """
    given = (options.folder, options.model)
    if not options.demo:
        if None in given:
            raise ValueError(f"{options.command} takes a folder and --model; or pass --demo for an example")
        return
    if given != (None, None):
        raise ValueError("--demo has its own folder and model; leave them out")
    demo = importlib.import_module(DEMO)
    root = demo.demo_folder(lambda: _tell("Rendering the scenes of the demo, which takes about a minute, once"))
    options.model = demo.MODEL
    options.folder = root / ("tagged" if options.command == "desk" else "photos")
    options.clean = options.clean or root / "clean"
    options.retain = options.retain or root / "retain"


def run_audit(options: argparse.Namespace) -> int:
    """Audit a folder, print the summary, and write the files; return the exit code."""
    started = time.perf_counter()
    _complete(options)
    check_before(options)
    from edittools.auditing.audit import audit_folder
    from edittools.models.load import load_classifier

    classifier = load_classifier(options.model)
    audit = audit_folder(
        options.folder,
        classifier,
        repair=options.repair,
        clean=options.clean,
        retain=options.retain,
        masks_checked=options.masks_checked,
        out=options.out,
        overwrite=options.force,
        callback=_tell,
    )
    paths = audit.write(options.out, overwrite=True)  # what is there has been checked before
    print(audit.summary())
    _print_written(paths, started)
    return 0


def run_repair(options: argparse.Namespace) -> int:
    """Repair a model from files, print the summary, and write the files.

    Returns:
        The exit code.

    Raises:
        FileExistsError: if `--out` is not empty, without `--force`.
        FileNotFoundError: if a folder or a file does not exist.
    """
    started = time.perf_counter()
    folders = {"concept": options.concept, "clean": options.clean, "retain": options.retain}
    _check_folders(options.folder, *folders.values())
    _check_files(*options.exemplar)
    parse_source(options.model)
    check_out(options.out.expanduser(), options.force)
    from edittools.auditing.from_files import load_exemplar, repair_from_files, write_repair
    from edittools.models.load import load_classifier

    classifier = load_classifier(options.model, options.device)
    image, changed, mask = (path.expanduser() for path in options.exemplar)
    exemplar = load_exemplar(image, changed, mask, classifier)
    fix = repair_from_files(options.folder, classifier, exemplar, **folders, failures=options.failures, callback=_tell)
    paths = write_repair(fix, options.out, overwrite=True)  # what is there has been checked before
    print(fix.summary("shell"))
    _print_written(paths, started)
    return 0 if options.require in (None, fix.verdict.word) else ANOTHER_VERDICT


def _print_written(paths: Sequence[Path], started: float) -> None:
    """Print how long a command took, and what it wrote."""
    print(f"\n{time.perf_counter() - started:.0f} s; wrote {', '.join(map(printable, paths))}")


def run_desk(options: argparse.Namespace) -> int:
    """Check the model and the folders, and serve the desk to a browser until Ctrl-C; return the exit code."""
    _complete(options)
    if options.clean is None:
        raise ValueError("desk takes --clean, a folder of ordinary images, which select an edit")
    folders = {"folder": options.folder, "clean": options.clean, "retain": options.retain}
    _check_folders(*folders.values())
    parse_source(options.model)

    from edittools.models.load import load_classifier

    print(f"Loading {options.model} …", file=sys.stderr)
    load_classifier(options.model)  # what is wrong with it is said here; the page loads its own

    from edittools._checks import extra

    with extra("auditing", "notebooks"):
        from edittools.widgets.desk.page import serve_desk

    paths = {name: path.expanduser().resolve() for name, path in folders.items() if path is not None}
    serve_desk(model=options.model, marks=options.marks.expanduser(), **paths)
    return 0


def _tell(step: str) -> None:
    """Print a step of an audit, or a file that was left out, on the standard error stream, above its bars."""
    from tqdm import tqdm

    tqdm.write(step if step.startswith("left out: ") else f"{step} …", file=sys.stderr)


def check_before(options: argparse.Namespace) -> None:
    """Check the arguments of an audit before anything is imported that takes seconds.

    Raises:
        FileExistsError: if `--out` is not empty and no audit with whose contact sheet to go on, without `--force`.
        FileNotFoundError: if a folder or a file does not exist.
        KeyError: if there is no model of that name.
        OSError: if the folder for the results cannot be written.
        ValueError: if `--repair` names no window.
    """
    if options.repair is not None:
        parse_window_name(options.repair)
    _check_folders(options.folder, options.clean, options.retain)
    parse_source(options.model)
    out = options.out.expanduser()
    goes_on = options.repair is not None and (out / SHEET).exists()  # whether it is of the same photos is seen later
    check_out(out, options.force or goes_on)


def run_apply(options: argparse.Namespace) -> int:
    """Print the verdict on an edit, and write the edited weights of a model.

    Returns:
        The exit code.

    Raises:
        FileExistsError: if there is a file at `--out`, without `--force`, or if it is the edit or the model.
        FileNotFoundError: if the edit or the file of the model does not exist.
        OSError: if the file cannot be written.
        ValueError: if the verdict is "do not use", without `--anyway`.
    """
    _check_files(options.edit)
    parse_source(options.model)
    out = _weights_path(options)
    from edittools.edits import Edit
    from edittools.models.load import load_classifier
    from edittools.verdict import DO_NOT_USE

    edit = Edit.load(options.edit)
    if edit.verdict is not None and edit.verdict.startswith(DO_NOT_USE) and not options.anyway:
        raise ValueError(
            f"the verdict on {str(options.edit)!r} is: {edit.verdict} No weights were written; --anyway writes them"
        )
    print(edit.verdict or f"{printable(options.edit)} has no verdict")
    classifier = load_classifier(options.model, options.device)
    edit.export(classifier, out)
    print(f"wrote {printable(out)}: the weights of {options.model} with {edit}")
    return 0


def _weights_path(options: argparse.Namespace) -> Path:
    """Return the path of the file that `apply` writes, and check that it can be written and no other file is lost."""
    out = options.out.expanduser()
    if not out.suffix:
        out = out.with_suffix(".safetensors")
    if out.is_dir():
        raise IsADirectoryError(f"{str(out)!r} is a folder; pass the path of a file")
    check_out(out.parent, overwrite=True)
    if not out.exists():
        return out
    source = parse_source(options.model)
    inputs = [options.edit.expanduser()]
    if source.kind != NAME:
        model = Path(source.name).expanduser()
        inputs += model.rglob("*") if model.is_dir() else [model]
    if any(path.exists() and path.samefile(out) for path in inputs):
        raise FileExistsError(f"{str(out)!r} is the edit or the model that this command reads; pass another --out")
    if not options.force:
        raise FileExistsError(f"{str(out)!r} exists; pass another --out, or --force to replace it")
    return out


def _check_folders(*folders: Path | None) -> None:
    """Check that each folder that was given holds images, before anything that takes long is imported.

    Raises:
        FileNotFoundError: if one does not exist.
        ValueError: if one contains no images.
    """
    for folder in folders:
        if folder is not None:
            image_files(folder)


def _check_files(*files: Path | None) -> None:
    """Check that each path that was given is that of a file.

    Raises:
        FileNotFoundError: if one does not.
    """
    for file in files:
        if file is not None and not file.expanduser().is_file():
            raise FileNotFoundError(f"{str(file)!r} is not a file; check the path")


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning as one line."""
    print(f"edittools: {' '.join(str(message).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
