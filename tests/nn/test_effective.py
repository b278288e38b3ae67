"""Engine and optimised model run the next forward: computed weights, frozen norms, averages."""

import warnings

import pytest
import torch
from support.engine_models import make_input, make_model
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

import stmixer_ops as so
from stmixer_ops.nn.effective import with_plain_weights


def layers(model):
    mixer = model.blocks[0].token_mixer
    return [model.patch_embed.main[1].conv, mixer.fc1, mixer.stm, model.head]


def on_layers(change, count=4):
    def apply(model):
        for layer in layers(model)[:count]:
            change(layer)
        with torch.no_grad():  # as after an optimiser's step: what old hooks left behind is stale
            for parameter in model.parameters():
                parameter.mul_(1.3)
        return model

    return apply


def freeze(model):
    ops = pytest.importorskip("torchvision.ops")
    for module in model.modules():
        bn = getattr(module, "bn", None)
        if isinstance(bn, nn.BatchNorm2d):
            module.bn = ops.FrozenBatchNorm2d(bn.num_features)
            module.bn.load_state_dict(bn.state_dict())
    return model


def averaged_by_timm(model):
    return pytest.importorskip("timm.utils").ModelEmaV3(model)


def compiled_blocks(model):
    model.blocks[0] = torch.compile(model.blocks[0], backend="eager")
    return model


CHANGES = {
    "weight norm": on_layers(parametrizations.weight_norm),
    "spectral norm": on_layers(parametrizations.spectral_norm),
    "orthogonal": on_layers(parametrizations.orthogonal, 2),
    "old weight norm": on_layers(torch.nn.utils.weight_norm),
    "old spectral norm": on_layers(torch.nn.utils.spectral_norm),
    "pruning": on_layers(lambda m: prune.random_unstructured(m, "weight", 0.5)),
    "frozen norms": freeze,
    "AveragedModel": AveragedModel,
    "AveragedModel of DataParallel": lambda m: AveragedModel(nn.DataParallel(m)),
    "timm's average": averaged_by_timm,
    "compiled blocks": compiled_blocks,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_runs_is_the_next_forward(change):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old hooks are deprecated
        model = CHANGES[change](make_model()).eval()
    x = make_input(make_model(), 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    engine, optimized = so.Engine.compile(model), so.optimize_for_inference(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with torch.no_grad():
        expected, y = model(x), optimized(x)
    torch.testing.assert_close(engine(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    assert not [key for key in optimized.state_dict() if "parametrizations" in key or "_g" in key]
    torch.testing.assert_close(so.Engine.compile(optimized)(x), expected, rtol=1e-4, atol=1e-5)


def test_training_mode_is_not_disturbed():
    """A power iteration in training would change the buffers that it starts from."""
    model = on_layers(parametrizations.spectral_norm)(make_model())
    expected = so.Engine.compile(model.eval())
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = make_input(model, 2)
    assert torch.equal(so.Engine.compile(model)(x), expected(x)) and model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_nothing_is_copied_without_need():
    model = make_model()
    assert with_plain_weights(model) is model


def test_a_replaced_forward_is_called_or_refused():
    """Also where the call would be fused away; a copy would still refer to the original."""
    model = make_model()
    x, lif = make_input(model, 2), model.blocks[0].token_mixer.lif2
    called, forward = [], lif.forward
    with torch.no_grad():
        expected = model(x)
        lif.forward = lambda x: called.append(1) or forward(x)
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
    assert called == [1]
    with pytest.raises(ValueError, match=r"blocks\.0\.token_mixer\.lif2 \(LIF\): its forward was"):
        so.optimize_for_inference(model)
