"""Each benchmark with `--quick`: it prints one JSON line with the keys that others read, and writes its results."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from _lib.results import COLUMNS, read_results, read_run
from conftest import needs_photos

ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = ("demo", "tables")
OF_PHOTOS = ("snow_lite", "watermark")
NEED_IMAGENETTE = ("learned_shortcut", "audit_shortcuts", "contact_sheets")  # which has to be downloaded
LEFT_OUT = (*TOOLS, *NEED_IMAGENETTE)
SCRIPTS = [path.stem for path in sorted((ROOT / "benchmarks").glob("*.py")) if path.stem not in LEFT_OUT]
COMMON = "seconds chosen trials choice_seconds success date call budget"
SNOW = f"""{COMMON} errors_before errors_after corrected broken errors_corrected errors_corrected_interval p
accuracy_change_points_budget accuracy_change_points_held_out accuracy_change_points_held_out_interval
keep_errors_before keep_errors_after keep_images p_against_edit untuned random_direction editing_several
random_direction_several two_layers finetune_local finetune_local_several finetune_global finetune_global_several
interpolated_local interpolated_global projection full_rank last_layer logit_correction"""
KEYS = {
    "snow": f"{SNOW} networks",
    "snow_lite": f"{SNOW} changed_elsewhere networks",
    "typographic": f"""{COMMON} clean_accuracy attack_success_before attack_success_after attacked attacks_corrected
        attacks_corrected_low attacks_corrected_high clean_accuracy_change_points clean_accuracy_change_points_interval
        clean_accuracy_change_points_budget other_words_success_before other_words_success_after other_words_corrected
        real_ipod_accuracy_before real_ipod_accuracy_after blank_sticker_accuracy_before blank_sticker_accuracy_after
        errors_before corrected broken errors_corrected errors_corrected_interval untuned random_direction
        editing_several random_direction_several two_layers finetune_local finetune_local_several finetune_global
        finetune_global_several interpolated_local interpolated_global projection full_rank
        text_blurred""",
    "watermark": f"""{COMMON} layers images errors_before corrected broken broken_by_the_mark share_restored
        share_restored_interval broken_by_unseen_marks share_restored_unseen_marks
        share_restored_unseen_marks_interval marks accuracy_change_points_held_out
        accuracy_change_points_held_out_interval p_against_edit untuned random_direction editing_several
        random_direction_several two_layers finetune_local finetune_local_several finetune_global
        finetune_global_several interpolated_local interpolated_global projection full_rank last_layer
        logit_correction mark_blurred mark_inpainted networks""",
    "synthetic": "seconds cases cases_without_errors budget layers methods date call",
    "probing": "seconds networks images date call",
    "edit_speed": """seconds naive_movement_equal_movement naive_loss_equal_movement l1_time_ratio_equal_movement
        least_squares_time_ratio_equal_movement naive_movement_lowest naive_loss_lowest l1_time_ratio_lowest
        least_squares_time_ratio_lowest loss_before naive_steps_to_lowest l1_time_ratio l1_loss
        least_squares_time_ratio least_squares_loss naive_loss_projected second_moment_time_ratio
        suffix_time_fraction date call""",
}


RUNS = {
    **{script: (script,) for script in SCRIPTS},
    "snow_lite": ("snow", "--tier", "lite"),
    "calibration_audits": ("calibration", "--audits"),
    "synthetic_exemplars": ("synthetic", "--exemplars", "1", "3"),
}
"""The script and the options of each quick run."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs_photos if name in OF_PHOTOS else ()) for name in RUNS])
def test_quick_run_prints_the_keys_and_writes_the_results(name, tmp_path):
    script, *more = RUNS[name]
    output = tmp_path / f"{name}.csv"
    command = [sys.executable, ROOT / "benchmarks" / f"{script}.py", *more, "--quick", "--json", "--output", output]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    line = json.loads(done.stdout.splitlines()[-1])
    assert set(KEYS.get(name, "seconds date call results").split()) <= set(line)
    table = read_results(name, tmp_path)
    assert list(table.columns) == COLUMNS and len(table)
    assert "--quick" in read_run(name, tmp_path)["command"]
