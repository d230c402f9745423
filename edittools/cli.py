"""The command `edittools`: audit a folder of images, open the desk on one, and apply an edit to a model's weights.

What a command needs is imported when it runs, so that `edittools --help` answers at once.
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from edittools.auditing.window_names import parse_window_name

EXAMPLES = """examples:
  edittools audit photos --model efficientnet_lite0 --out audit
      photos/ has one subfolder per class, named after classes of the model
  edittools audit photos --model efficientnet_lite0 --repair "garbage truck:1" --overwrite
      after a look at the report: the first window of this class does not belong to it
  edittools audit photos --model efficientnet_lite0 --concepts
      find concepts such as the road as well, and repair the strongest rule
  edittools audit photos --model timm:resnet18 --masks road_masks --material snow.jpg
      replace the concepts of road_masks/ by the material of snow.jpg
  edittools desk photos/tagged --model file.py:load --clean photos/clean
      open a page in the browser on which you mark what misleads the model, and rewrite it
"""

DESCRIPTION = "Audit a folder of images, open the desk on one, and apply an edit to a model's weights."

INTERRUPTED = 130
"""The exit code after Ctrl-C."""


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
    audit.add_argument("folder", type=Path, help="images, in one subfolder per class")
    model_help = (
        "a name of edittools, timm:NAME_OR_FOLDER, or FILE.py:FUNCTION, a function that returns a model and its class "
        "names"
    )
    audit.add_argument("--model", required=True, help=model_help)
    repair_help = (
        "the windows of the report that do not belong to their class, such as 'garbage truck:1': test whether they "
        "carry the class, and repair it"
    )
    audit.add_argument("--repair", metavar="CLASS:NUMBER", help=repair_help)
    concepts_help = "probe the concepts that masks mark, and repair the strongest rule (--masks implies it)"
    audit.add_argument("--concepts", action="store_true", help=concepts_help)
    audit.add_argument("--clean", type=Path, help="folder of images whose accuracy must not drop")
    audit.add_argument("--retain", type=Path, help="folder of images that rely on the concept legitimately")
    audit.add_argument("--masks", type=Path, help="masks of concepts: CONCEPT/IMAGE.png, or a COCO file")
    checked_help = (
        "say that the masks are right, or that the outlined photos show the mark: you have looked at the images above "
        "the verdict of the report"
    )
    audit.add_argument("--masks-checked", action="store_true", help=checked_help)
    direction = audit.add_mutually_exclusive_group()
    misleads_help = "the concept itself misleads, as a tag does: repair photos of other classes that show it"
    direction.add_argument(
        "--concept-misleads", dest="direction", action="store_const", const="misleads", help=misleads_help
    )
    missed_help = "predictions may rely on the concept: repair photos that fail without it"
    direction.add_argument(
        "--concept-is-missed", dest="direction", action="store_const", const="missed", help=missed_help
    )
    audit.add_argument("--material", type=Path, help="image of the material that replaces concepts, such as snow.jpg")
    audit.add_argument("--out", type=Path, default=Path("audit"), help="folder for the results (default: audit)")
    audit.add_argument("--overwrite", action="store_true", help="replace the report of an earlier audit in --out")
    desk = subparsers.add_parser(
        "desk",
        help="open a page in the browser: mark what misleads a model in an image, rewrite, and see the effect",
    )
    desk.add_argument("folder", type=Path, help="images, some of them misclassified, in one subfolder per class")
    desk.add_argument("--model", required=True, help=model_help)
    clean_help = "folder of images on which accuracy is measured; without it, whether to use an edit stays unclear"
    desk.add_argument("--clean", type=Path, help=clean_help)
    desk.add_argument("--retain", type=Path, help="folder of images whose predictions should not change")
    apply = subparsers.add_parser("apply", help="write the weights of a model with an edit as a state dict")
    apply.add_argument("edit", type=Path, help="an edit that was saved, such as audit/edit.safetensors")
    apply.add_argument("--model", required=True, help=model_help)
    apply.add_argument("--out", type=Path, required=True, help="file to write, such as weights.safetensors")
    apply.add_argument("--device", help="such as cpu or cuda")
    anyway_help = "write the weights even if the verdict on the edit is: do not use"
    apply.add_argument("--anyway", action="store_true", help=anyway_help)
    return commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of the command line.

    Args:
        arguments: the arguments; by default those of the process.

    Returns:
        The exit code: 0, 130 after Ctrl-C, or 2 after an error, which is printed in one line.
    """
    options = parser().parse_args(arguments)
    command = {"audit": run_audit, "desk": run_desk, "apply": run_apply}[options.command]
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            command(options)
        except KeyboardInterrupt:
            remedy = "; call it again with the same --out to go on" if options.command == "audit" else ""
            print(f"edittools: interrupted{remedy}", file=sys.stderr)
            return INTERRUPTED
        except (OSError, ImportError, KeyError, TypeError, ValueError, RuntimeError) as error:
            message = error.args[0] if isinstance(error, KeyError) and error.args else error
            print(f"edittools: {' '.join(str(message).split())}", file=sys.stderr)
            return 2
    return 0


def run_audit(options: argparse.Namespace) -> None:
    """Audit a folder, print the summary, and write the files."""
    started = time.perf_counter()
    check_before(options)
    from edittools.auditing.audit import audit_folder
    from edittools.auditing.sources import load_model

    classifier = load_model(options.model)
    audit = audit_folder(
        options.folder,
        classifier,
        repair=options.repair,
        concepts=options.concepts,
        clean=options.clean,
        retain=options.retain,
        masks=options.masks,
        masks_checked=options.masks_checked,
        direction=options.direction,
        material=options.material,
        out=options.out,
        callback=_tell,
    )
    paths = audit.write(options.out)
    print(audit.summary())
    print(f"\n{time.perf_counter() - started:.0f} s; wrote {', '.join(str(path) for path in paths)}")


def run_desk(options: argparse.Namespace) -> None:
    """Check the model and the folders, and serve the desk to a browser until Ctrl-C."""
    _check_folders(options.folder, options.clean, options.retain)
    _check_model(options.model)

    from edittools.auditing.sources import load_model

    print(f"Loading {options.model} …", file=sys.stderr)
    classifier = load_model(options.model)

    from edittools._checks import extra

    with extra("auditing", "notebooks"):
        from edittools.widgets.desk_page import serve_desk
    from edittools.widgets.image_sets import check_source

    folders = {"folder": options.folder, "clean": options.clean, "retain": options.retain}
    paths = {name: path.expanduser().resolve() for name, path in folders.items() if path is not None}
    for name, path in paths.items():
        check_source(name, path, classifier)
    del classifier  # the page loads its own
    serve_desk(model=options.model, **paths)


def _tell(step: str) -> None:
    """Print a step of an audit, or a file that was left out, on the standard error stream."""
    print(step if step.startswith("left out: ") else f"{step} …", file=sys.stderr)


def check_before(options: argparse.Namespace) -> None:
    """Check the arguments of an audit before anything is imported that takes seconds.

    Raises:
        FileExistsError: if the folder for the results holds a report, without `--overwrite`.
        FileNotFoundError: if a folder or a file does not exist.
        KeyError: if there is no model of that name.
        OSError: if the folder for the results cannot be written.
        ValueError: if `--repair` names no window, or is passed together with `--concepts` or `--masks`; or if a
            direction is passed without any of these two.
    """
    if options.repair is not None:
        parse_window_name(options.repair)
        if options.concepts or options.masks is not None:
            raise ValueError(
                "--repair repairs a window of the report, and --concepts and --masks a rule; run one audit for each"
            )
    if options.direction is not None and not (options.concepts or options.masks is not None):
        raise ValueError(
            "--concept-misleads and --concept-is-missed concern concepts; pass --concepts, or --masks with their masks"
        )
    _check_folders(options.folder, options.clean, options.retain)
    for file in (options.masks, options.material):
        if file is not None and not file.expanduser().exists():
            raise FileNotFoundError(f"{str(file)!r} does not exist; check the path")
    _check_model(options.model)
    _check_out(options.out, options.overwrite)


def _check_model(source: str) -> None:
    """Check the name of a model without importing torch, see `auditing.load_model`."""
    from edittools.auditing.timm_names import check_timm_name
    from edittools.models.zoo import check_name

    library, _, name = source.partition(":")
    path, _, function = source.rpartition(":")
    if library == "timm" and name:
        check_timm_name(name)
        return
    if path.endswith(".py") and function:
        if not Path(path).expanduser().is_file():
            raise FileNotFoundError(f"{path!r} is not a file; pass FILE.py:FUNCTION")
        return
    check_name(source)


def _check_out(out: Path, overwrite: bool) -> None:
    """Check that the results can be written, and that no report is lost; the folder is made if it does not exist."""
    folder = out.expanduser()
    report = folder / "report.html"
    if report.exists() and not overwrite:
        raise FileExistsError(f"{str(report)!r} exists; pass --overwrite to replace it, or another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"no results can be written to {str(out)!r} ({error.strerror}); pass another folder with --out"
        ) from error


def run_apply(options: argparse.Namespace) -> None:
    """Print the verdict on an edit, and write the edited weights of a model.

    Raises:
        ValueError: if the verdict is "do not use", without `--anyway`.
    """
    from edittools.auditing.sources import load_model
    from edittools.edits import Edit
    from edittools.selection.verdict import DO_NOT_USE

    edit = Edit.load(options.edit)
    if edit.verdict is not None and edit.verdict.startswith(DO_NOT_USE) and not options.anyway:
        raise ValueError(
            f"the verdict on {str(options.edit)!r} is: {edit.verdict} No weights were written; --anyway writes them"
        )
    print(edit.verdict or f"{options.edit} has no verdict")
    classifier = load_model(options.model, options.device)
    edit.export(classifier, options.out)
    print(f"wrote {options.out}: the weights of {options.model} with {edit}")


def _check_folders(*folders: Path | None) -> None:
    """Check that each folder that was given exists, before anything that takes long is imported.

    Raises:
        FileNotFoundError: if one does not.
    """
    for folder in folders:
        if folder is not None and not folder.expanduser().is_dir():
            raise FileNotFoundError(f"{str(folder)!r} is not a folder; pass a folder of images")


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning as one line."""
    print(f"edittools: {' '.join(str(message).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
