"""What an edit does to labeled images, counted by scene, and the predictions with several edits at once."""

from collections import defaultdict

import pytest
import torch
from colors import LAYERS, color_network, marked_exemplar, ordinary
from effects_by_hand import CORRECT, WRONG, effect_of
from hypothesis import given
from hypothesis import strategies as st

from edittools.cut import Cut
from edittools.metrics import predict
from edittools.rewriting import rewrite
from edittools.selection.effects import predictions_of, rows_of


def flags(comparison):
    return ["".join(WRONG if wrong else CORRECT for wrong in part) for part in (comparison.before, comparison.after)]


@pytest.mark.parametrize(
    ("before", "after", "scenes", "expected"),
    [
        ("xvxv", "vxxv", None, ["xvxv", "vxxv"]),  # each image is a scene
        ("vvvv", "xxxx", "aaaa", ["v", "x"]),  # a lost scene counts once
        ("xxxx", "vvvx", "aaaa", ["x", "v"]),
        ("xvvv", "vxvv", "aaaa", ["x", "x"]),  # as many corrected as broken
        ("vvvv", "vvvv", "aaaa", ["v", "v"]),
        ("xxvv", "vvxv", "abab", ["xx", "xv"]),
        ("xvvx", "vxvv", "ccaa", ["xx", "vx"]),  # a scene that is not shown, such as b, does not count
    ],
)
def test_by_scene_of_small_cases(before, after, scenes, expected):
    assert flags(effect_of(before, after, scenes).by_scene) == expected


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=1, max_size=40))
def test_by_scene_against_counts_in_plain_python(rows):
    before = "".join(WRONG if row[0] else CORRECT for row in rows)
    after = "".join(WRONG if row[1] else CORRECT for row in rows)
    effect = effect_of(before, after, "".join("abcdef"[row[2]] for row in rows))
    members = defaultdict(list)
    for wrong_before, wrong_after, scene in rows:
        members[scene].append((wrong_before, wrong_after))
    corrected = broken = errors = any_broken = any_correct = 0
    for pairs in members.values():
        gain = sum(one for one, _ in pairs) - sum(other for _, other in pairs)
        corrected += gain > 0
        broken += gain < 0
        errors += gain > 0 or (gain == 0 and any(one for one, _ in pairs))
        any_broken += (False, True) in pairs
        any_correct += any(not one for one, _ in pairs)
    found = effect.by_scene
    assert (found.corrected, found.broken, int(found.before.sum())) == (corrected, broken, errors)
    assert len(found.before) == effect.scene_count == len(members)
    assert effect.broken_by_scene == (any_broken, any_correct)
    changed = {scene for wrong_before, wrong_after, scene in rows if wrong_before != wrong_after}
    assert effect.changed_by_scene == len(changed)


def test_effect_on_some_images_keeps_their_scenes():
    part = effect_of("xvxv", "vvvx", "aabb").of(torch.tensor([True, False, True, True]))
    assert (part.comparison.corrected, part.comparison.broken) == (2, 1)
    assert flags(part.by_scene) == ["xx", "vx"]


def test_effect_on_no_image():
    nothing = effect_of("xv", "vv").of(torch.zeros(2, dtype=torch.bool))
    assert len(nothing) == nothing.scene_count == len(nothing.by_scene.before) == 0


def test_rows_count_scenes_and_leave_out_what_was_not_measured():
    frames = effect_of("xxxxvvvv", "vvvvvvvv", "aaaabbbb")
    row = rows_of({"concept": frames, "own_class": frames}, ["huskies"])
    assert (row["errors"], row["corrected"], row["own class"], row["own class correct"]) == (1, 1, 2, 2)
    assert not {"accuracy change", "retained"} & set(row)
    retained = rows_of(
        {"huskies": effect_of("vvvvv", "xxxxv", "aaaab"), "wolves": effect_of("vx", "vx")}, ["huskies", "wolves"]
    )
    assert (retained["retained"], retained["retained broken"]) == (3, 1)


@pytest.mark.parametrize("layer", LAYERS)
def test_predictions_with_several_edits_are_those_of_the_edited_models(layer):
    classifier = color_network()
    images = ordinary(100, 1).images
    exemplar = marked_exemplar()
    edits = [rewrite(classifier, layer, exemplar, images, rank=rank, reference_weight=0.0) for rank in (1, None)]
    edits.append(-3 * edits[0])
    marked = torch.cat([images, exemplar.changed[None]])
    found = predictions_of(Cut(classifier, layer), edits, marked)
    networks = [classifier, *(edit.edited(classifier) for edit in edits)]
    assert torch.equal(found, torch.stack([predict(network, marked).argmax(1) for network in networks]))
    assert found[0].tolist() != found[1].tolist()


def test_predictions_of_an_edit_of_another_model_are_refused():
    edit = rewrite(color_network(50.0), "2", marked_exemplar(), ordinary(60, 1).images)
    with pytest.raises(ValueError, match="Sequential"):
        predictions_of(Cut(color_network(), "2"), [edit], ordinary(60, 1).images)
