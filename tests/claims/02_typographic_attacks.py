"""The claims in the text of notebook 02, which hold over words and layers, and the answers that its checks refuse."""

# Part 2: fewer predictions are an iPod, but hardly more of them are correct
assert 1 - default_fates[ATTACK] > 3 * default_fates["correct"]

# Part 3: what becomes correct
edited = table.loc[list(edits)]
alike = edited[edited[ATTACK] < 0.25]["correct"]
assert alike.max() > 3 * alike.min()
assert correct["one word, random direction"] < 0.1 and correct["blank sticker"] > 0.93
assert correct[list(edits)].max() < correct["word blurred"] - 0.1
assert attacked.labels.shape == is_fooled.shape and table.loc["no edit", "correct"] < 0.05

# Part 3: words and layers
assert (by_word[ATTACK] < 0.6).all() and by_word["correct"].max() > 2 * by_word["correct"].min()
assert correct_by_layer["L1"].max() > 50 and correct_by_layer["L1"].min() < 5
layer_spread = correct_by_layer.max() - correct_by_layer.min()
assert layer_spread["L1"] > 100 * (correct["one word, L1"] - correct["one word, default"])

# Part 4: what stays wrong
assert is_right.loc[still_wrong, "blank sticker"].mean() > 0.8


# Exercise 1: integers, "among the first two", all, lowered by a fixed amount. Exercise 2: noise, one color, an image of
# the notebook, no word.
def as_integers(logits, labels):
    return correctable(logits, labels).long()


def among_the_first_two(logits, labels):
    return (logits.topk(2, dim=1).indices == labels[:, None]).any(dim=1)


def lowered_to_minus_100(logits, labels):
    logits[:, ipod] = -100
    return logits.argmax(dim=1) == labels


for check, answer in [
    (check_lowering, [as_integers]),
    (check_lowering, [lowered_to_minus_100]),
    (check_lowering, [among_the_first_two]),
    (check_lowering, [lambda logits, labels: labels >= 0]),
    (check_word, [torch.rand(cup.shape), "hello"]),
    (check_word, [torch.full_like(cup, 0.5), "hello"]),
    (check_word, [attacked.images[0], "hello"]),
    (check_word, [cup, " "]),
]:
    try:
        check(*answer)
    except AssertionError:
        continue
    raise AssertionError(f"{answer} was accepted")
