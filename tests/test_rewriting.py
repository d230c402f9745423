from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from conftest import make_exemplar, moment_of, save_image
from torch import nn

from edittools.classifiers import Classifier
from edittools.cut import Cut, rows
from edittools.exemplars import Exemplar
from edittools.geometry import InputGeometry
from edittools.images import LazyImages
from edittools.metrics import predict
from edittools.moments import LEAST_EIGENVALUE, second_moments
from edittools.rewriting import REFERENCE_WEIGHT, edit_directions, pose, rewrite, rewrite_at, solve_least_squares
from edittools.site import prepare

LAYERS = ["stem", "conv1", "conv2"]


def _pose(tiny, photos, layer, exemplars, rank=1, masked=True):
    site = prepare(tiny, layer, exemplars, photos)
    return pose(site, edit_directions(site, rank), masked)


def _weight_change(edit, layer):
    return edit.changes[f"{layer}.weight"].delta()


@pytest.mark.parametrize(
    ("layer", "objective", "masked", "rank"),
    [
        ("stem", "l1", True, 1),
        ("stem", "least_squares", True, None),
        ("conv1", "l1", False, 3),
        ("conv1", "least_squares", False, 1),
        ("conv2", "l1", True, None),
        ("conv2", "least_squares", True, 3),
    ],
)
def test_rewrite_lowers_loss_within_rank(tiny, photos32, exemplar, layer, objective, masked, rank):
    settings = {"rank": rank, "masked": masked, "objective": objective, "reference_weight": 0.0}
    edit = rewrite(tiny, layer, exemplar, photos32, **settings)
    assert edit.record.loss_after <= edit.record.loss_before
    if masked or objective == "least_squares":  # for L1 over the whole image, no change at all can be the optimum
        assert edit.record.loss_after < edit.record.loss_before
    by_input = _weight_change(edit, layer).transpose(0, 1).flatten(1)  # (in, out * kh * kw)
    assert int(torch.linalg.matrix_rank(by_input, rtol=1e-4)) <= min(rank or 99, *by_input.shape)
    assert edit.record.objective == objective


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("objective", ["l1", "least_squares"])
@torch.no_grad()
def test_rewrite_keeps_outputs_of_orthogonal_keys(tiny, photos32, exemplar, layer, objective):
    edit = rewrite(tiny, layer, exemplar, photos32, objective=objective)
    basis = edit.changes[f"{layer}.weight"].right
    keys = torch.randn(4, basis.shape[1], 6, 6, generator=torch.Generator().manual_seed(0))
    keys -= torch.einsum("rn,rm,bmhw->bnhw", basis, basis, keys)
    module = tiny.model.get_submodule(layer)
    before = module(keys)
    with edit.applied(tiny):
        assert torch.allclose(module(keys), before, atol=1e-5)
        assert not torch.allclose(module(keys + basis[0, :, None, None]), before, atol=1e-2)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rank", [1, 2, None])
@pytest.mark.parametrize("masked", [True, False])
@torch.no_grad()
def test_solve_least_squares_against_lstsq(tiny, photos32, layer, rank, masked):
    exemplars = [make_exemplar(2), make_exemplar(5)]
    problem = _pose(tiny, photos32, layer, exemplars, rank, masked)
    coefficients = solve_least_squares(problem).double()
    module = tiny.model.get_submodule(layer)
    columns = F.unfold(problem.projected_keys, module.kernel_size, padding=module.padding, stride=module.stride)
    design = columns.transpose(1, 2).flatten(0, 1).double()
    target = (problem.target_output - problem.base_output).permute(0, 2, 3, 1).flatten(0, 2).double()
    weight = F.adaptive_avg_pool2d(problem.masks, problem.base_output.shape[2:]).flatten().sqrt()[:, None].double()
    unknowns = design.shape[1]
    ridge = 1e-3 * (design * weight).square().sum() / unknowns
    stacked = torch.cat([design * weight, ridge.sqrt() * torch.eye(unknowns).double()])
    targets = torch.cat([target * weight, torch.zeros(unknowns, target.shape[1]).double()])
    expected = torch.linalg.lstsq(stacked, targets).solution.T.reshape(coefficients.shape)
    torch.testing.assert_close(coefficients, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@torch.no_grad()
def test_target_output_of_residual_block(tiny, photos32, exemplar):
    problem = _pose(tiny, photos32, "conv2", exemplar)
    cut = problem.cut
    reached = cut.pre_activation(problem.changed, problem.target_output)
    assert torch.allclose(reached, cut.pre_activation(problem.image, cut.output(problem.image)), atol=1e-4)


@pytest.mark.parametrize("layer", LAYERS)
def test_solve_l1_against_adam_on_full_weight(tiny, photos32, exemplar, layer):
    """The naive way: train all of W' with Adam, projected on the direction at every step."""
    edit = rewrite(tiny, layer, exemplar, photos32, objective="l1", reference_weight=0.0, steps=400)
    problem = _pose(tiny, photos32, layer, exemplar)
    cut = problem.cut
    basis = problem.basis
    weight = cut.weight.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=5e-3)

    def naive_loss(full):
        output = problem.base_output + cut.convolve(cut.keys(problem.changed), full - cut.weight)
        value = cut.value(problem.changed, output)
        share = F.adaptive_avg_pool2d(exemplar.mask[None, None], value.shape[-2:]).sqrt()
        return ((value - problem.target_value).abs() * share).sum() / share.sum() / value.shape[1]

    for _ in range(700):
        optimizer.zero_grad()
        weight.grad = torch.autograd.grad(naive_loss(weight), weight)[0]
        optimizer.step()
        with torch.no_grad():
            change = torch.einsum("rn,rm,omhw->onhw", basis, basis, weight - cut.weight)
            weight.copy_(cut.weight + change)
    with torch.no_grad():
        reached = naive_loss(cut.weight + _weight_change(edit, layer))
        assert float(reached) == pytest.approx(edit.record.loss_after, rel=1e-4)
        assert edit.record.loss_after <= float(naive_loss(weight)) * 1.01


def test_rewrite_of_linear_layer(tiny, photos32, exemplar):
    edit = rewrite(tiny, "head", exemplar, photos32, reference_weight=0.0)
    assert edit.changes["head.weight"].left.shape == (5, 1)
    with edit.applied(tiny):
        reached = predict(tiny, exemplar.changed[None])
    assert torch.allclose(reached, predict(tiny, exemplar.image[None]), atol=1e-3)  # the ridge leaves a thousandth


@pytest.mark.parametrize("objective", ["l1", "least_squares"])
def test_rewrite_with_equal_images_warns(tiny, photos32, exemplar, objective):
    equal = replace(exemplar, changed=exemplar.image)
    with pytest.warns(UserWarning, match="'conv1'"):
        edit = rewrite(tiny, "conv1", equal, photos32, objective=objective)
    assert edit.record.loss_before == pytest.approx(0, abs=1e-6)
    with edit.applied(tiny):
        edited = predict(tiny, photos32)
    assert torch.allclose(edited, predict(tiny, photos32), atol=1e-5)


def test_rewrite_before_batch_norm_without_running_statistics(tiny, photos32, exemplar):
    """It scales no channel of its own, so what follows it has no target."""
    tiny.model.norm2 = torch.nn.BatchNorm2d(8, track_running_stats=False)
    edit = rewrite(tiny, "conv2", exemplar, photos32, reference_weight=0.0)
    assert 0 <= edit.record.loss_after < 0.99 * edit.record.loss_before


def _narrow(seed=0):
    """Keys at the mask that are nearly alike, so that along most of three directions there is next to nothing."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(24 * 64, 4),
    )
    image = torch.rand(3, 16, 16)
    mask = torch.zeros(16, 16)
    mask[4:9, 2:14] = 1
    changed = torch.where(mask > 0, 0.8 + 0.02 * torch.rand(3, 16, 16), image)
    return Classifier(model, list("abcd"), size=16), Exemplar(image, changed, mask), torch.rand(20, 3, 16, 16)


def test_solve_l1_improves_on_least_squares():
    classifier, exemplar, reference = _narrow()
    settings = {"rank": 3, "objective": "l1", "reference_weight": 0.0}
    start = rewrite(classifier, "2", exemplar, reference, steps=0, **settings).record
    record = rewrite(classifier, "2", exemplar, reference, **settings).record
    assert start.steps == 0
    assert record.loss_after < 0.6 * start.loss_after < start.loss_before


def test_rewrite_with_more_steps(tiny, photos32, exemplar):
    settings = {"objective": "l1", "reference_weight": 0.0}
    records = [rewrite(tiny, "conv1", exemplar, photos32, steps=n, **settings).record for n in (6, 30, 300)]
    assert [record.steps for record in records] == [6, 30, 300]
    assert records[0].loss_after > records[1].loss_after > records[2].loss_after


@pytest.mark.parametrize("objective", ["l1", "least_squares"])
def test_rewrite_is_deterministic(tiny, photos32, exemplar, objective):
    edits = [rewrite(tiny, "conv1", exemplar, photos32, rank=2, objective=objective) for _ in range(2)]
    first, second = (_weight_change(edit, "conv1") for edit in edits)
    assert torch.equal(first, second)


def test_rewrite_by_default_is_least_squares_with_the_recommended_weight(tiny, photos32, exemplar):
    moment = second_moments(tiny, ["conv1"], photos32)["conv1"]
    for reference in (photos32, moment):
        default = rewrite(tiny, "conv1", exemplar, reference)
        explicit = {"objective": "least_squares", "reference_weight": REFERENCE_WEIGHT, "rank": 1}
        expected = rewrite(tiny, "conv1", exemplar, reference, **explicit)
        assert torch.equal(_weight_change(default, "conv1"), _weight_change(expected, "conv1"))
    assert REFERENCE_WEIGHT > 0


def test_rewrite_without_reference_has_no_penalty_by_default(tiny, exemplar):
    site = prepare(tiny, "conv1", exemplar)
    for settings in ({"basis": torch.eye(8)[:2]}, {"rank": None}):
        [default] = rewrite_at(site, **settings)
        [expected] = rewrite_at(site, reference_weight=0.0, **settings)
        assert torch.equal(_weight_change(default, "conv1"), _weight_change(expected, "conv1"))


@pytest.mark.parametrize(("layer", "rank"), [*product(LAYERS, (2, None)), ("head", 1)])
@torch.no_grad()
def test_reference_change_against_each_reference_key(tiny, photos32, exemplar, layer, rank):
    """By a root of the correlation of offsets, each key counts once at each of these."""
    tiny.double()
    site = prepare(tiny, layer, exemplar, photos32)
    problem = pose(site, edit_directions(site, rank), reference_weight=1.0)
    shape = problem.coefficients_shape
    coefficients = torch.rand(shape, generator=torch.Generator().manual_seed(0)).double()
    keys = rows(site.cut.keys(site.cut.prefix(photos32)), site.cut.is_linear)
    by_offset = coefficients.reshape(*shape[:2], -1) @ torch.linalg.cholesky(problem.offsets)
    changes = torch.einsum("ork,rn,pn->pok", by_offset, problem.basis, keys)
    expected = changes.square().mean(dim=0).sum()
    assert float(problem.reference_change(coefficients)) == pytest.approx(float(expected), rel=1e-6)


def _masked_system(cut, exemplars):
    """The keys of x' under the kernel at the mask, the differences of outputs there, and a row's share of the mask."""
    changed = torch.stack([exemplar.changed for exemplar in exemplars])
    original = torch.stack([exemplar.image for exemplar in exemplars])
    share = cut.pool_mask(torch.stack([exemplar.mask for exemplar in exemplars]), "output").flatten().double()
    windows = F.unfold(cut.keys(cut.prefix(changed)), 3, padding=1).movedim(1, -1).flatten(0, -2)
    difference = rows(cut.output(cut.prefix(original)) - cut.output(cut.prefix(changed)), False)
    return windows[share > 0], difference[share > 0], share[share > 0]


def _minimizer(windows, difference, share, keys, weight, ridge, offsets=None):
    """Minimize the fit, the penalty at all nine offsets of 3 × 3 for keys `(P, n)`, and a ridge, by lstsq."""
    root = share.sqrt()[:, None]
    root_of_offsets = torch.linalg.cholesky(torch.eye(9).double() if offsets is None else offsets).T.contiguous()
    penalty = (share.sum() * weight / len(keys)).sqrt() * torch.kron(keys.contiguous(), root_of_offsets)
    small = ridge**0.5 * torch.eye(windows.shape[1]).double()
    design = torch.cat([root * windows, penalty, small])
    zeros = torch.zeros(len(design) - len(windows), difference.shape[1]).double()
    solution = torch.linalg.lstsq(design, torch.cat([root * difference, zeros])).solution
    return solution.T.reshape(difference.shape[1], -1, 3, 3)


def _small_mask(exemplar, side):
    mask = torch.zeros_like(exemplar.mask)
    mask[16 : 16 + side, 8 : 8 + side] = 1
    return replace(exemplar, mask=mask)


@pytest.mark.parametrize("rank", [1, 3])
@torch.no_grad()
def test_rewrite_of_low_rank_with_penalty_against_lstsq(tiny, photos32, exemplar, rank):
    """The penalty is measured on each reference key, not on C; only the correlation of offsets is taken over."""
    tiny.double()
    edit = rewrite(tiny, "conv1", exemplar, photos32, rank=rank, reference_weight=3.0)
    cut = Cut(tiny, "conv1")
    windows, difference, share = _masked_system(cut, [exemplar])
    basis = edit.changes["conv1.weight"].right
    keys = rows(cut.keys(cut.prefix(photos32)), False)
    projected = torch.einsum("pnk,rn->prk", windows.unflatten(1, (8, 9)), basis).flatten(1)
    ridge = 1e-3 * (share[:, None] * projected.square()).sum() / (9 * rank)
    offsets = second_moments(tiny, ["conv1"], photos32)["conv1"].offsets
    expected = _minimizer(projected, difference, share, keys @ basis.T, 3.0, float(ridge), offsets)
    torch.testing.assert_close(edit.changes["conv1.weight"].left, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("side", [8, 16], ids=["fewer positions than unknowns", "as many or more"])
@pytest.mark.parametrize("keys", [20, 3], ids=["regular C", "singular C"])
@torch.no_grad()
def test_rewrite_of_full_rank_with_penalty_against_lstsq(tiny, exemplar, side, keys):
    """Where C is singular, its lowest eigenvalues are raised."""
    tiny.double()
    exemplars = [_small_mask(exemplar, side), _small_mask(make_exemplar(3), side)]
    reference_keys = torch.rand(keys, 8, generator=torch.Generator().manual_seed(0)).double()
    moment = moment_of(tiny, "conv1", reference_keys.T @ reference_keys / keys)
    edit = rewrite(tiny, "conv1", exemplars, moment, rank=None, reference_weight=0.3)
    windows, difference, share = _masked_system(Cut(tiny, "conv1"), exemplars)
    assert (len(windows) < 72) == (side == 8)
    values, vectors = torch.linalg.eigh(moment.matrix)
    raised = values.clamp_min(LEAST_EIGENVALUE * values[-1])
    root = 8**0.5 * raised.sqrt().diag() @ vectors.T  # eight keys with the second moment C
    whitened = torch.einsum("pnk,nm->pmk", windows.unflatten(1, (8, 9)), vectors * raised.rsqrt())
    ridge = 1e-3 * (share[:, None, None] * whitened.square()).sum() / 72  # relative to whitened keys, as λ is
    expected = _minimizer(windows, difference, share, root, 0.3 + float(ridge / share.sum()), 0.0)
    torch.testing.assert_close(edit.changes["conv1.weight"].delta(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("weight", [1.0, 10.0, 1000.0])
@torch.no_grad()
def test_rewrite_of_full_rank_is_the_one_of_as_many_directions_as_channels(tiny, photos32, exemplar, weight):
    """They differ in their ridges only, which matter less the larger λ is."""
    tiny.double()
    site = prepare(tiny, "conv1", exemplar, photos32)
    all_directions = torch.linalg.qr(torch.rand(8, 8, generator=torch.Generator().manual_seed(0)).double()).Q
    changes = []
    for basis in (None, all_directions):
        problem = pose(site, basis, reference_weight=weight)
        coefficients = solve_least_squares(problem)
        changes.append(torch.einsum("orhw,rn->onhw", coefficients, problem.basis))
    assert (changes[0] - changes[1]).norm() < 0.01 / weight * changes[0].norm()


def test_rewrite_of_full_rank_without_penalty_needs_no_reference(tiny, photos32, exemplar):
    edit = rewrite(tiny, "conv1", exemplar, rank=None, reference_weight=0.0)
    expected = rewrite(tiny, "conv1", exemplar, photos32, rank=None, reference_weight=0.0)
    assert edit.digest == expected.digest


@pytest.mark.parametrize("objective", ["l1", "least_squares"])
def test_rewrite_at_site_gives_the_edits_of_rewrite(tiny, photos32, exemplar, objective):
    exemplars = [exemplar, make_exemplar(5)]
    site = prepare(tiny, "conv1", exemplars, photos32)
    for settings in ({"rank": 3}, {"rank": None, "masked": False}, {"rank": 2, "reference_weight": 0.0, "steps": 20}):
        [edit] = rewrite_at(site, objective=objective, **settings)
        for layer in ("conv1", tiny.model.conv1):
            expected = rewrite(tiny, layer, exemplars, photos32, objective=objective, **settings)
            assert (edit.digest, edit.record) == (expected.digest, expected.record)
            assert edit.fingerprint == expected.fingerprint


@pytest.mark.parametrize("precision", [torch.float16, torch.float64])
@pytest.mark.parametrize("objective", ["l1", "least_squares"])
def test_rewrite_at_with_basis_of_other_precision(tiny, photos32, exemplar, precision, objective):
    moment = second_moments(tiny, ["conv1"], photos32)["conv1"]
    basis = rewrite(tiny, "conv1", exemplar, moment).changes["conv1.weight"].right
    tiny.double()
    site = prepare(tiny, "conv1", exemplar, photos32)
    [exact] = rewrite_at(site, basis=basis.double(), objective=objective)
    [edit] = rewrite_at(site, basis=basis.to(precision), objective=objective)
    assert edit.changes["conv1.weight"].right.dtype == torch.float64
    assert edit.record.loss_after == pytest.approx(exact.record.loss_after, rel=0.02)


def test_rewrite_with_lazy_reference_images(tiny, photos32, exemplar, tmp_path):
    for i in range(6):
        save_image(tmp_path / f"{i}.png", photos32[i])
    files = LazyImages(sorted(tmp_path.iterdir()), InputGeometry(32, 32))
    settings = {"objective": "least_squares", "reference_weight": 1.0}
    lazy_edit, edit = (rewrite(tiny, "conv1", exemplar, images, **settings) for images in (files, files[:]))
    assert torch.equal(lazy_edit.changes["conv1.weight"].delta(), edit.changes["conv1.weight"].delta())


def test_rewrite_warning_names_caller(tiny, photos32):
    image = photos32[0]
    mask = torch.zeros(32, 32)
    mask[8:16, 8:16] = 1
    with pytest.warns(UserWarning, match="conv1") as caught:
        rewrite(tiny, "conv1", Exemplar(image, image, mask), photos32, objective="least_squares")
    assert caught[0].filename == __file__


EXACT = {"objective": "least_squares"}


def _reference(classifier, layer, images):
    return second_moments(classifier, [layer], images)[layer]


def _moved(classifier, edit, images):
    """The mean square movement of the edited layer's outputs, summed over channels: computed by the model itself."""
    name = edit.layers[0]
    module, found = classifier.model.get_submodule(name), []
    handle = module.register_forward_hook(lambda _m, _i, out: found.append(out.detach().double()))
    with torch.no_grad():
        classifier(images)
        with edit.applied(classifier):
            classifier(images)
    handle.remove()
    before, after = found
    return float((after - before).square().sum(1).mean())


@pytest.mark.parametrize("objective", ["least_squares", "l1"])
def test_reference_outputs_move_less_the_more_they_weigh(tiny, photos32, exemplar, objective):
    reference = _reference(tiny, "conv1", photos32[:20])
    settings = {"objective": objective, "steps": 60}
    edits = [rewrite(tiny, "conv1", exemplar, reference, reference_weight=w, **settings) for w in (0.0, 1.0, 10.0)]
    moved = [_moved(tiny, edit, photos32[:20]) for edit in edits]
    assert moved[0] > 1.5 * moved[1] > 1.5 * 1.5 * moved[2]
    losses = [edit.record.loss_after for edit in edits]
    assert losses == sorted(losses)  # a fit costs something


def test_at_weight_1_reference_outputs_cost_as_much_as_what_is_missing_at_the_mask(tiny, photos32, exemplar):
    """Along one direction of a 1 × 1 kernel λ scales the edit, by 1 / (1 + λ r²) where they move r times as far."""
    cut = Cut(tiny, "conv2")
    [basis] = cut.weight.new_tensor(torch.eye(cut.weight.shape[1])[:1].tolist()).split(1)
    for images in (photos32[:20], 0.1 * photos32[:20], torch.zeros(4, 3, 32, 32)):
        site = prepare(tiny, "conv2", exemplar, _reference(tiny, "conv2", images))
        [free] = rewrite_at(site, basis=basis, reference_weight=0.0, **EXACT)
        [held] = rewrite_at(site, basis=basis, reference_weight=5.0, **EXACT)
        at_mask = free.record.response**2 * cut.weight.shape[0]  # a sum over channels
        scale = 1 / (1 + 5 * _moved(tiny, free, images) / at_mask)
        left, expected = held.changes["conv2.weight"].left, scale * free.changes["conv2.weight"].left
        torch.testing.assert_close(left, expected, rtol=5e-3, atol=1e-6)
