"""The claims in the text of notebook 03."""

# Part 1: the order of methods depends on the case
assert len(corrected) == 6 and is_best.any(axis=1).all()
assert (is_best.sum() < len(cases)).all()

# Part 2: an edit, next to fine-tuning on the exemplars
with_tuning = comparisons.loc["edit or local fine-tuning"]
on_miniworld = with_tuning.loc[("MiniWorld", "other classes")]
assert on_miniworld["first better"] > 3 * on_miniworld["second better"] and on_miniworld["p"] < 0.001
on_photos = with_tuning.loc[("photos", "other classes")]
assert abs(on_photos["first better"] - on_photos["second better"]) <= 2 and on_photos["p"] > 0.5
assert with_tuning.loc[("MiniWorld", "target class"), "p"] > 0.5
target_photos = with_tuning.loc[("photos", "target class")]
assert target_photos["first better"] == 0 < target_photos["second better"] and target_photos["p"] > 0.2

# Part 2: an edit, next to full rank
with_full_rank = comparisons.loc["edit or full rank"]
assert with_full_rank.loc[("MiniWorld", "target class"), "first better"] == 0
assert with_full_rank.loc[("MiniWorld", "target class"), "second better"] > 10
untold = with_full_rank.drop(("MiniWorld", "target class"))
assert (untold["p"] > 0.05).all()
assert costs.loc["MiniWorld", "edit"] > costs.loc["MiniWorld", "full rank"]

# Part 2: either may be clearly better in a case; the mask, and the number of exemplars
other_classes = comparisons.xs("other classes", level=2)[leads]
assert (other_classes > 10).all(axis=None)
assert (means["edit without the mask"] - means["edit"]).abs().max() < 2
gains = by_number.loc["10 exemplars"] - by_number.loc["1 exemplar"]
assert 10 > gains["edit"] > gains["local fine-tuning"] > 0

# Part 3: where fine-tuning is better
assert tuned_better >= 1 and edit_better == 0
assert changed["tuned: changed"] > 1.5 * changed["edit: changed"]


# Exercise 1: the whole change, none, directions of the output channels; exercise 2: another size, one color, bytes
def cut_outputs(delta, rank):
    left, scale, right = torch.linalg.svd(delta.flatten(1), full_matrices=False)
    return ((left[:, :rank] * scale[:rank]) @ right[:rank]).view_as(delta)


gravel = sample_photo("gravel", classifier)
for check, wrong in [
    (check_cut, lambda delta, rank: delta),
    (check_cut, lambda delta, rank: torch.zeros_like(delta)),
    (check_cut, cut_outputs),
    (check_style, gravel[:, ::2, ::2]),
    (check_style, torch.full_like(gravel, 0.5)),
    (check_style, 255 * gravel),
    (check_style, torch.rand(gravel.shape, generator=torch.Generator().manual_seed(0))),
    (check_style, concepts.data.images[0]),
]:
    try:
        check(wrong)
    except AssertionError:
        continue
    raise AssertionError(f"{check.__name__} accepts a wrong answer")
