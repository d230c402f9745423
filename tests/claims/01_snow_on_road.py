"""The claims in the text of notebook 01, for its own drawing and exemplar."""

# Part 1: the mistake
assert set(wrong_classes.index[:2]) == {"sled", "penguin"}

# Part 2: masks
assert total / 2 > max(net["a strip above"], net["the middle"], net["a small patch"])
assert net["a strip below"] > 0.9 * net["the road"] > 0.7 * total
assert net["a strip across"] > 0.7 * net["the road"] > 5 * net["a strip above"]
assert not (masks["a strip across"] * masks["the road"]).any()
assert net["a narrower strip"] < net["a strip below"] / 2
assert torch.nonzero(masks["a strip below"].any(1) != masks["a narrower strip"].any(1)).numel() == 2
assert buildings[True] > 2 * buildings[False]
assert by_mask.loc["the middle", "retained broken"] > 10 > 3 > by_mask.loc["the road", "retained broken"]

# Part 3: exemplars
assert ranges.loc["bus", "min"] > 0.8 * total and ranges.loc["car", "max"] > 0.8 * total
assert ranges.loc["car", "min"] < 0.5 * total and ranges.loc["bicycle", "min"] < 0

# Part 4: random directions
assert at_random.max() > total / 2 > total / 4 > at_random.sort_values().iloc[3]

# Part 5: selection, and the verdict
costs = by_selection.loc["by hosts, in place"] - by_selection.loc["by the exemplar"]
assert abs(costs["corrected"]) < total / 5 and costs["retained broken"] > 20
assert selected["share"] >= scenario.expected["errors corrected"]
assert [fix.verdict.word for fix in fixes.values()] == ["unclear", "do not use", "use"]
