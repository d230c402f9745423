"""The claims in the text of notebook 05, for its own drawing."""

# Look: the objects carry four classes, and the tag the fifth
shares = sheet.table.set_index("class")["share"]
assert error_rates["clean"] < 0.15
assert shares.drop("truck").between(0.2, 0.55).all() and shares["truck"] > 0.75

# Draw: the tag misleads
assert class_of_x == label != class_of_changed

# Select, and measure: the edit helps on hosts, on labeled images, and on new ones
assert fix.consistency.loc["other classes", "alike with the edit"] > 35
assert fix.consistency.loc["own class", "alike with the edit"] < fix.consistency.loc["own class", "alike before"]
assert selected["share"] > 0.6
assert fix.table.loc["selected", "corrected"] > 2 * fix.table.loc["random direction", "corrected"]
assert comparison.corrected > was_wrong.sum() / 4 and comparison.corrected > 10 * comparison.broken

# Decide: filling the tag needs no edit, and a second look at the same labels allows no "use"
assert with_filling < with_edit and fix.verdict.word in answers
errors_of_others = misclassified["other classes"]
assert errors_of_others["with the tag filled in"] < errors_of_others["with the tag"] / 3
assert "use" not in set(reselected["verdict"])
assert reselected["retained broken"].iloc[-1] <= reselected["retained broken"].iloc[0]


# Exercise 1: the divergence reversed, the original network, one mean over both classes, and equal weights
def objectives_by(
    divergence=lambda original, edited: (original.exp() * (original - edited)).sum(dim=1),
    strength=1.0,
    is_apart=True,
    clean_weight=2,
):
    def objectives(edits, hosts):
        found = []
        for edit in edits:
            with (strength * edit).applied(classifier):
                marked = divergence(hosts.original, et.predict(classifier, hosts.marked).log_softmax(dim=1))
                clean = divergence(hosts.original, et.predict(classifier, hosts.images).log_softmax(dim=1))
            parts = [~hosts.is_own, hosts.is_own] if is_apart else [hosts.is_own | ~hosts.is_own]
            of_marked = sum(marked[part].mean() for part in parts)
            found.append(of_marked + clean_weight * clean[~hosts.shows_mark].mean())
        return found

    return objectives


check_select(objectives_by())
of_each = {weight: fix.reselect(clean_weight=weight) for weight in reselected.index}
first_weight, *_, last_weight = of_each
for check, wrong in [
    (check_select, objectives_by(divergence=lambda original, edited: (edited.exp() * (edited - original)).sum(dim=1))),
    (check_select, objectives_by(strength=0.0)),
    (check_select, objectives_by(is_apart=False)),
    (check_select, objectives_by(clean_weight=1)),
    # Exercise 2: invented keys, an edit of another weight, the edit that was selected first, one edit twice
    (check_second_look, {f"try {weight}": again for weight, again in of_each.items()}),
    (check_second_look, of_each | {first_weight: of_each[last_weight]}),
    (check_second_look, of_each | {2.0: fix}),
    (
        check_second_look,
        {last_weight: of_each[last_weight], last_weight + 1: fix.reselect(clean_weight=last_weight + 1)},
    ),
]:
    try:
        check(wrong)
    except AssertionError as refusal:
        assert str(refusal)
        continue
    raise AssertionError(f"{check.__name__} accepts a wrong answer")
