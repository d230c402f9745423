"""The claims in the text of notebook 02."""

# Part 2: fewer predictions are an iPod, but hardly more of them are correct
assert 0.15 < table.loc["one word, default", ATTACK] < 0.27 and 0.1 < correct["one word, default"] < 0.18

# Part 3: what becomes correct
assert correct["one word, L1"] > 2 * correct["one word, default"]
assert correct["ten stickers, L1"] > 2 * correct["ten stickers, default"]
assert correct["ten stickers, L1"] > correct["one word, L1"]
assert correct["ten stickers, default"] > correct["one word, default"]
assert correct["one word, L1, no mask"] > correct["one word, L1"]
assert abs(correct["xqzv on a photo, L1"] - correct["iPod on a photo, L1"]) < 0.05
assert on_photo[ATTACK].idxmax() == "iPod on a photo, L1"
assert 0.35 < correct["pizza on a photo, L1"] / correct["iPod on a photo, L1"] < 0.65
assert correct["one word, random direction"] < 0.1 and correct["blank sticker"] > 0.93
assert correct["word blurred"] > 0.7
assert correct[list(edits)].max() < correct["word blurred"] - 0.1
assert correct["one word, selected by hosts"] > 1.5 * correct["one word, default"]
assert fix.verdict.word == "unclear"
