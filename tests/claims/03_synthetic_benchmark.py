"""The claims in the text of notebook 03."""

# Part 1: the order of methods depends on their settings
assert fixed["corrected"].idxmax() == "edit"
corrected = by_labels["corrected"]
assert corrected["full rank"] > corrected["editing"] > corrected["local fine-tuning"]

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
assert with_full_rank.loc[("MiniWorld", "other classes"), "p"] > 0.1
assert with_full_rank.loc[("MiniWorld", "target class"), "first better"] == 0
assert with_full_rank.loc[("MiniWorld", "target class"), "second better"] > 10
photos_full_rank = with_full_rank.loc[("photos", "other classes")]
assert photos_full_rank["first better"] > photos_full_rank["second better"] and photos_full_rank["p"] > 0.05
assert (costs["edit"] > costs["full rank"]).all()

# Part 2: the mask, and the number of exemplars
assert (means["edit without the mask"] - means["edit"]).abs().max() < 2
gains = by_number.loc["10 exemplars"] - by_number.loc["1 exemplar"]
assert 10 > gains["edit"] > gains["local fine-tuning"] > 0

# Part 3: where fine-tuning is better
assert tuned_better >= 1 and edit_better == 0
assert changed["tuned: changed"] > 1.5 * changed["edit: changed"]
