"""Models by name."""

import pytest
import torch

import stmixer_ops as so


@pytest.mark.parametrize("name", so.list_models())
def test_every_listed_name_builds(name):
    with torch.device("meta"):
        model = so.create_model(name)
    family, depth, width, *heads = name.split("_")
    assert type(model).__name__.lower() == family
    assert (model.depth, model.embed_dim) == (int(depth), int(width))
    assert not heads or model.num_heads == int(heads[0])
    assert model.default_cfg["architecture"] == name


@pytest.mark.parametrize("name", so.list_models(with_tags=True))
def test_tags_set_the_data_set(name):
    with torch.device("meta"):
        model = so.create_model(name)
    expected = {
        "cifar10": ((3, 32, 32), 10),
        "cifar100": ((3, 32, 32), 100),
        "in1k": ((3, 224, 224), 1000),
        "cifar10dvs": ((2, 128, 128), 10),
        "dvs128gesture": ((2, 128, 128), 11),
    }[name.partition(".")[2]]
    assert (model.default_cfg["input_size"], model.num_classes) == expected
    assert model.grid_size in ((8, 8), (14, 14))


def test_published_names_are_listed():
    names = so.list_models()
    assert {f"stmixer_4_384_{h}" for h in (8, 16, 32)} <= set(names)
    assert {f"stmixer_8_768_{h}" for h in (8, 12, 16, 32)} <= set(names)
    assert {f"stmixer_2_256_{h}" for h in (8, 16, 32)} <= set(names)
    assert {"spikformer_4_384", "spikformer_8_768", "spikformer_2_256"} <= set(names)


def test_keywords_override():
    model = so.create_model(
        "stmixer_4_384_16", num_classes=7, img_size=16, T=3, embed_dim=32, depth=1, num_heads=2,
        reset="soft", sml=True, in_chans=1,
    )  # fmt: skip
    assert model(torch.rand(2, 1, 16, 16)).shape == (2, 7)
    assert (model.T, model.reset_mode, model.num_heads, model.depth) == (3, "soft", 2, 1)


def test_heads_and_steps_of_spikformer():
    with torch.device("meta"):
        cifar = so.create_model("spikformer_4_384")
        events = so.create_model("spikformer_2_256")
    assert (cifar.num_heads, cifar.T, cifar.variant) == (12, 4, "cifar10")
    assert (events.num_heads, events.T, events.variant) == (16, 16, "dvs")


def test_unpublished_sizes_build_too():
    model = so.create_model("stmixer_2_64_4", T=2)
    assert (model.depth, model.embed_dim, model.num_heads, model.img_size) == (2, 64, 4, (32, 32))


def test_unknown_names_get_close_matches():
    with pytest.raises(ValueError, match="did you mean stmixer_4_384_16"):
        so.create_model("stmixr_4_384_16")
    with pytest.raises(ValueError, match="did you mean spikformer_4_384"):
        so.create_model("spikeformer_4_384")
    with pytest.raises(ValueError, match="unknown model 'resnet18'; names are"):
        so.create_model("resnet18")
    with pytest.raises(ValueError, match="unknown tag 'mnist' of stmixer_4_384_16; tags are cifar"):
        so.create_model("stmixer_4_384_16.mnist")
    with pytest.raises(ValueError, match="num_heads must divide the 384 channels, got 17"):
        so.create_model("stmixer_4_384_17")
