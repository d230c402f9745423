"""The claims in the text of notebook 01, which hold for several images, and the answers that its checks refuse."""

# Part 1: the mistake
assert set(wrong_classes.index[:2]) == {"sled", "penguin"}

# Part 2: masks, over ten images
medians = nets.median()
many_broken = (retained_broken > 5).sum()
assert medians["the road"] > 2 * medians["the uppermost quarter"] and many_broken["the uppermost quarter"] == 0
assert many_broken["a box in the middle"] >= 2
assert medians["without its border"] > medians["the road"]
spread = nets.max() - nets.min()
assert spread.median() > medians.diff().abs().median()

# Part 3: exemplars
assert any(shows_no_mistake) and not all(shows_no_mistake[: len(exemplars)])
single_nets = by_exemplar["net"][is_single]
assert several["net"].std() < single_nets.std()
assert (by_exemplar["shows no mistake"] & is_single).sum() >= 3

# Part 4: random directions
assert at_random.max() > 3 * at_random.median() and at_random.median() < total / 4

# Part 5: selection, and the verdict
costs = by_selection.loc["by hosts, in place"] - by_selection.loc["by the exemplar"]
assert costs["retained broken"] > 20
assert selected["share"] >= scenario.expected["errors corrected"]

# Part 6: what stays wrong
assert 0 < len(still_wrong) < total / 4


# Exercise 2: wrong divergences
def reversed_divergences():
    original = et.predict(classifier, stored_exemplar.image[None]).log_softmax(dim=1)
    by_layer = {}
    for name in layers:
        with et.rewrite(classifier, name, stored_exemplar, splits.reference).applied(classifier):
            edited = et.predict(classifier, stored_exemplar.changed[None]).log_softmax(dim=1)
        by_layer[name] = float((edited.exp() * (edited - original)).sum())
    return by_layer


def divergences_of_edited_x():
    by_layer = {}
    for name in layers:
        with et.rewrite(classifier, name, stored_exemplar, splits.reference).applied(classifier):
            pair = torch.stack([stored_exemplar.image, stored_exemplar.changed])
            of_x, of_changed = et.predict(classifier, pair).log_softmax(dim=1)
        by_layer[name] = float((of_x.exp() * (of_x - of_changed)).sum())
    return by_layer


def constant_divergences():
    return dict.fromkeys(layers, 0.1)


for wrong in [reversed_divergences, divergences_of_edited_x, constant_divergences]:
    try:
        check_divergences(wrong)
    except AssertionError:
        continue
    raise AssertionError(f"{wrong.__name__} was accepted")

# Exercise 1: another size, an empty mask, a mask of the whole image, one color, noise, the stored image
for image, mask in [
    (own_image[:, ::2, ::2], own_mask),
    (own_image, torch.zeros_like(own_mask)),
    (own_image, torch.ones_like(own_mask)),
    (torch.zeros_like(own_image), own_mask),
    (torch.rand(own_image.shape, generator=torch.Generator().manual_seed(0)), own_mask),
    (x, stored_exemplar.mask),
]:
    try:
        check_exemplar(image, mask)
    except AssertionError:
        continue
    raise AssertionError("a wrong exemplar was accepted")
