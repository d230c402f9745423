"""The claims in the text of notebook 00, with some room for machines that round differently, and refused answers."""

# Part 1: on photos
assert photo_table.loc["cat", "with the tag"] == "garbage truck"
assert shares["still a garbage truck"].median() == 0 and shares["still a garbage truck"].max() <= 0.5
assert 0.4 < shares["returned"].median() < 0.9

# Part 2: the mistake
assert predicted == ["car", "sled"]
assert errors_before["vehicles on snow"] > 120 / 4

# Part 4: the direction
assert responses["C⁻¹d"] < 0.45 * responses["d, without C⁻¹"]

# Part 5: the same weights, and the penalty, which is not the mean square change
assert max(differences.values()) < 1e-5
assert 0.05 < abs(float(penalty / exact) - 1) < 0.4

# Part 6: what each choice gives, over the cars
vehicles_wrong = by_car.pivot(index="car", columns="choice", values="vehicles on snow")
costs = by_car.assign(cost=by_car["clean"] + by_car["snow classes"]).pivot(index="car", columns="choice", values="cost")
fits = by_car.pivot(index="car", columns="choice", values="distance left (%)")
by_rank = ["rank 1, λ = 0", "rank 3, λ = 0", "rank 10, λ = 0"]
default = "rank 1, λ = 10: default"
assert (vehicles_wrong["rank 1, λ = 100"] > vehicles_wrong[default]).all()
assert (wrong_by_car["rank 1, λ = 100"] <= wrong_by_car[default]).all()
assert (vehicles_wrong["rank 1, λ = 0"] - vehicles_wrong[default]).abs().median() <= 3
assert (wrong_by_car["rank 1, λ = 0"] - wrong_by_car[default]).max() > 5
assert (wrong_by_car["rank 1, λ = 0"] - wrong_by_car[default]).median() <= 3
assert example_maps[3].mean() < 0.5 * min(example_map.mean() for example_map in example_maps[:3])
assert (fits[by_rank].diff(axis=1).iloc[:, 1:] < 0).all(axis=None)
assert (costs[by_rank].median().diff()[1:] > 0).all()
assert vehicles_wrong["rank 3, λ = 0"].median() > vehicles_wrong["rank 1, λ = 0"].median() - 3
assert (fits["L1, λ = 0"] > 100).all()
assert (wrong_by_car["L1, λ = 0"] > wrong_by_car["rank 1, λ = 0"]).sum() > len(wrong_by_car) / 2

# Exercise 1: a mask of the whole image, a gray x, or both; the cat, as it is or with one pixel changed; another photo
# with the tag as x'; noise
almost_cat = photos[0].clone()
almost_cat[:, 0, 0] = 0
noise = torch.rand(own.shape, generator=torch.Generator().manual_seed(0))
own_changed = own_tagged[0]
for wrong in [
    et.Exemplar(own, own_changed, torch.ones_like(own_tags[0])),
    et.Exemplar(torch.full_like(own, 0.5), own_changed, torch.ones_like(own_tags[0])),
    et.Exemplar(torch.full_like(own, 0.5), torch.where(own_tags[0] > 0, own_changed, 0.5), own_tags[0]),
    cat,
    et.Exemplar(almost_cat, tagged[0], tags[0]),
    et.Exemplar(own, tagged[0], torch.ones_like(own_tags[0])),
    et.Exemplar(noise, torch.where(own_tags[0] > 0, own_changed, noise), own_tags[0]),
]:
    try:
        check_exemplar(wrong)
    except AssertionError:
        continue
    raise AssertionError("a wrong exemplar was accepted")


# Exercise 2: one direction whatever the rank, a scaled change, directions that are not orthonormal, no ε
def rank_by(epsilon=1e-3, is_orthonormal=True):
    def rewrite_by(rank):
        U = whitener @ torch.linalg.svd(snow_rows @ whitener).Vh[:rank].T
        U = torch.linalg.qr(U).Q if is_orthonormal else U
        padded = F.pad(torch.einsum("cr,bchw->brhw", U, changed_keys), (1, 1, 1, 1), mode="replicate")
        X = F.unfold(padded, kernel_size=3)[0].T
        R = (layer(keys) - layer(changed_keys))[0].flatten(1).T
        system = X.T @ (share[:, None] * X)
        system = system + epsilon * system.trace() / len(system) * torch.eye(len(system))
        Λ = torch.linalg.solve(system, X.T @ (share[:, None] * R)).T.view(96, rank, 3, 3)
        return torch.einsum("orab,cr->ocab", Λ, U)

    return rewrite_by


check_rank(rank_by())
for wrong in [
    lambda rank: rewrite_with_rank(1),
    lambda rank: 1.1 * rewrite_with_rank(rank),
    rank_by(is_orthonormal=False),
    rank_by(epsilon=1e-9),
]:
    try:
        check_rank(wrong)
    except AssertionError:
        continue
    raise AssertionError("a wrong edit of rank R was accepted")
