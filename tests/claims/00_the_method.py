"""The claims in the text of notebook 00, with some room for machines that round differently."""

# Part 1: on photos
assert photo_table.loc["cat", "with the tag"] == "garbage truck" and is_fooled.sum() >= 7
assert by_photo["still a garbage truck"].max() <= 1
assert in_one_layer["returned"].between(3, 7).all()
assert (
    by_photo.loc["cat, selected by hosts", "returned"]
    <= by_photo.loc["cat", "returned"]
    < by_photo.loc["cat", "fooled"]
)

# Part 2: the mistake
assert predicted == ["car", "sled"]
assert errors_before["vehicles on snow"] > 120 / 4

# Part 4: the direction
assert responses["C⁻¹d"] < 0.45 * responses["d, without C⁻¹"]

# Part 5: the same weights
assert max(differences.values()) < 1e-4

# Part 6: what each choice gives
fit = table["distance left (%)"]
corrected_by = errors_before["vehicles on snow"] - table["vehicles on snow"]
broken_by = table["snow classes"] - errors_before["snow classes"]
by_rank = ["rank 1, λ = 0", "rank 3, λ = 0", "rank 10, λ = 0"]
default = "rank 1, λ = 10: default"
assert (corrected_by.drop("no edit") > errors_before["vehicles on snow"] / 3).all()
assert 0 <= corrected_by["rank 1, λ = 0"] - corrected_by[default] <= 3
assert broken_by[default] <= broken_by["rank 1, λ = 0"] <= 6
assert fit[by_rank].is_monotonic_decreasing and fit["rank 10, λ = 0"] < 6
assert table.loc[by_rank, ["clean", "snow classes"]].sum(axis=1).is_monotonic_increasing
assert corrected_by["rank 10, λ = 0"] < corrected_by["rank 3, λ = 0"] <= corrected_by["rank 1, λ = 0"] + 1
assert fit["L1, λ = 0"] > 100
assert broken_by.idxmax() == "L1, λ = 0" and broken_by["L1, λ = 0"] > 1.5 * broken_by["rank 10, λ = 0"]
assert corrected_by["rank 1, λ = 100"] <= corrected_by[default] - 2
assert broken_by["rank 1, λ = 100"] <= min(broken_by[default], 1)
