import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hypergen
from hypergen import HyperNetwork
from hypergen.errors import GeneratorError, ParameterError, UnknownNameError
from hypergen.generators.hypernetwork import HyperNetworkTraining, magnitude_invariant
from hypergen.generators.hypernetwork.per_example import LoopWarning


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, 10)
    )


def awake(hyper, std=0.1):
    """Heads that do not start at zero."""
    torch.manual_seed(1)
    for readout in hyper.heads.readouts:
        nn.init.normal_(readout.weight, std=std)
    return hyper


def outputs_one_by_one(hyper, inputs, conditions):
    return torch.cat([hyper(inputs[i : i + 1], condition=conditions[i]) for i in range(len(inputs))])


HEADS = ("per_tensor", "per_type", "chunked", "recurrent", "query")
APPLICATIONS = ("full", "delta", "multiply", "lora")


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("apply", APPLICATIONS)
def test_it_starts_at_the_target_and_gives_each_example_a_network(heads, apply):
    target, inputs = mlp(), torch.randn(4, 6)
    before = copy.deepcopy(target.state_dict())
    hyper = HyperNetwork(target, 2, heads=heads, apply=apply, hidden=[16], chunk_size=7, rank=2)
    assert torch.equal(hyper(inputs, condition=[0.1, 0.9]), target(inputs))
    awake(hyper)
    conditions = torch.rand(4, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs = hyper(inputs, condition=conditions)
    torch.testing.assert_close(outputs, outputs_one_by_one(hyper, inputs, conditions), rtol=0, atol=1e-6)
    assert (outputs - target(inputs)).abs().max() > 1e-3
    outputs.square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in hyper.parameters())
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    assert all(p.grad is None for p in target.parameters())


def test_generated_parameters_give_the_same_outputs_in_the_network_itself():
    for options in ({}, {"parameters": "*.weight"}, {"apply": "lora", "rank": 2}, {"base": "fixed"}):
        target = cnn().eval()
        hyper = awake(HyperNetwork(target, {"task": {"categories": 3}, "rate": 1}, **options)).eval()
        condition = {"task": 1, "rate": 0.5}
        inputs = torch.randn(2, 1, 8, 8)
        expected = hyper(inputs, condition=condition)
        other = copy.deepcopy(target)
        report = hypergen.initialize(other, hyper, condition=condition, example_inputs=inputs, fallback="never")
        assert report.share_of_parameters_predicted == 1
        torch.testing.assert_close(other(inputs), expected, rtol=0, atol=1e-6)
        assert dict(hyper.generate(condition)).keys() == dict(target.named_parameters()).keys()


def test_all_networks_on_all_inputs():
    hyper = awake(HyperNetwork(mlp(), 2))
    inputs, conditions = torch.randn(7, 6), torch.rand(3, 2)
    outputs = hyper(inputs, condition=conditions, shared_inputs=True)
    expected = torch.stack([hyper(inputs, condition=each) for each in conditions])
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-6)


def test_what_vmap_cannot_follow_runs_in_a_loop_that_says_so():
    torch.manual_seed(0)
    hyper = awake(HyperNetwork(nn.LSTM(5, 7, 2, batch_first=True), 2))
    inputs, conditions = torch.randn(4, 3, 5), torch.rand(4, 2)
    with pytest.warns(LoopWarning, match="LSTM runs its 4 conditions one after the other"):
        outputs, (hidden, _) = hyper(inputs, condition=conditions)
    expected = torch.cat([hyper(inputs[i : i + 1], condition=conditions[i])[0] for i in range(4)])
    torch.testing.assert_close(outputs, expected)
    assert hidden.shape[-1] == 7 and outputs.std() > 0


def test_ties_and_frozen_parameters_are_respected():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.hidden, self.out = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9, bias=False)
            self.out.weight = self.embedding.weight
            self.hidden.weight.requires_grad_(False)

        def forward(self, tokens):
            return self.out(self.hidden(self.embedding(tokens)))

    target, tokens = Tied(), torch.randint(9, (3, 5))
    hyper = awake(HyperNetwork(target, 1))
    assert hyper.names == ["embedding.weight", "hidden.bias"]
    parameters = {name: value[0] for name, value in hyper.generate_stacked([[0.3]]).items()}
    weight, frozen = parameters["embedding.weight"], target.hidden.weight
    expected = F.linear(F.linear(weight[tokens], frozen, parameters["hidden.bias"]), weight)
    torch.testing.assert_close(hyper(tokens, condition=[0.3]), expected)
    assert HyperNetwork(target, 1, parameters="out.weight").names == ["embedding.weight"]  # by another of its names
    assert "hidden.weight" in HyperNetwork(target, 1, apply="lora").names  # what is frozen may be changed, not trained
    with pytest.raises(ParameterError, match="frozen"):
        HyperNetwork(target, 1, parameters="hidden.weight")


def test_saved_and_pickled_it_gives_the_same(tmp_path):
    target = cnn().eval()
    hyper = awake(HyperNetwork(target, 2, parameters="*.weight")).eval()
    inputs = torch.randn(2, 1, 8, 8)
    expected = hyper(inputs, condition=[0.2, 0.3])
    hyper.save_pretrained(tmp_path)
    alone = HyperNetwork.from_pretrained(tmp_path)
    assert all(
        torch.equal(value, hyper.generate([0.2, 0.3])[name]) for name, value in alone.generate([0.2, 0.3]).items()
    )
    with pytest.raises(GeneratorError, match="attach"):
        alone(inputs, condition=[0.2, 0.3])
    fresh = cnn().eval()
    with torch.no_grad():
        for value in fresh.parameters():
            value.normal_()
    for loaded in (HyperNetwork.from_pretrained(tmp_path, target=fresh), pickle.loads(pickle.dumps(hyper))):
        assert torch.equal(loaded(inputs, condition=[0.2, 0.3]), expected)
    with pytest.raises(ParameterError, match=r"0\.weight"):
        alone.attach(mlp())


def test_buffers_of_the_target_stay_and_the_hypernetwork_keeps_its_own():
    target = cnn().train()
    before = target[1].running_mean.clone()
    hyper = HyperNetwork(target, 1)
    hyper(torch.randn(8, 1, 8, 8) + 3, condition=[0.5])
    assert torch.equal(target[1].running_mean, before)
    assert not torch.equal(hyper.own_buffers.get("1.running_mean"), before)


def test_it_compiles_to_one_graph():
    hyper = awake(HyperNetwork(mlp(), 2))
    inputs, conditions = torch.randn(4, 6), torch.rand(4, 2)
    for condition in (conditions[0], conditions):
        torch._dynamo.reset()
        compiled = torch.compile(hyper, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(inputs, condition=condition), hyper(inputs, condition=condition))


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ([0.5], r"shape \[1\]; expected \[2\]"),
        ([0.5, 1.5], "values from 0.5 to 1.5; expected 0 to 1"),
        ([0.5, float("nan")], "not finite"),
        (torch.zeros(0, 2), "empty"),
        (torch.zeros(2, 2, 2), r"\[2, 2, 2\]"),
        (None, "Expected a condition"),
    ],
)
def test_conditions_that_do_not_fit(condition, message):
    with pytest.raises(GeneratorError, match=message):
        HyperNetwork(mlp(), 2)(torch.zeros(4, 6), condition=condition)


def test_conditions_by_name_that_do_not_fit():
    hyper = HyperNetwork(mlp(), {"task": {"categories": 3}, "rate": {"continuous": 1, "low": -2, "high": 2}})
    inputs = torch.zeros(4, 6)
    for condition, message in (
        ({"task": 3, "rate": 0.0}, "from 3 to 3; expected 0 to 2"),
        ({"task": 1}, "lacks rate"),
        ({"task": 1.0, "rate": 0.0}, "integers"),
        ({"task": torch.tensor([0, 1]), "rate": torch.zeros(3, 1)}, "different sizes"),
        ([0.1], "by name"),
    ):
        with pytest.raises(GeneratorError, match=message):
            hyper(inputs, condition=condition)
    with pytest.raises(UnknownNameError, match="Did you mean 'task'"):
        hyper(inputs, condition={"tasks": 1, "rate": 0.0})
    with pytest.raises(ParameterError, match="3 conditions, and no input"):
        hyper(inputs, condition={"task": torch.arange(3), "rate": 0.0})
    hyper(inputs, condition={"task": torch.arange(3).repeat(2)[:4], "rate": -1.0})


def test_arguments_that_do_not_fit():
    with pytest.raises(UnknownNameError, match=r"Did you mean '0\.weight'"):
        HyperNetwork(mlp(), 1, parameters="0.weigth")
    with pytest.raises(ParameterError, match="fewer than two axes"):
        HyperNetwork(mlp(), 1, parameters="*.bias", apply="lora")
    for option in ("apply", "heads", "encoding", "base"):
        with pytest.raises(UnknownNameError, match="nonsense"):
            HyperNetwork(mlp(), 1, **{option: "nonsense"})
    with pytest.raises(GeneratorError, match="classes"):
        HyperNetwork(mlp(), 1, encoding="embedding")
    with pytest.raises(ParameterError, match="meta"):
        HyperNetwork(mlp().to("meta"), 1)
    with pytest.raises(TypeError, match="torch.nn.Module"):
        HyperNetwork([1], 1)
    with pytest.raises(GeneratorError, match="generate_stacked"):
        HyperNetwork(mlp(), 1).generate(torch.rand(2, 1))


def test_batch_norms_in_training_mode_are_refused_with_ways_out():
    hyper = HyperNetwork(cnn().train(), 1)
    with pytest.raises(ParameterError, match="group norms"):
        hyper(torch.randn(2, 1, 8, 8), condition=torch.rand(2, 1))
    hyper.eval()(torch.randn(2, 1, 8, 8), condition=torch.rand(2, 1))


class Writes(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.linear, self.what = nn.Linear(6, 3), what
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, inputs):
        if self.what == "data":
            self.linear.weight.data.clamp_(-0.01, 0.01)
        elif self.what == "parameter":
            self.linear.weight.mul_(0.5)
        outputs = self.linear(inputs)
        if self.what == "buffer":
            self.seen.add_(outputs.detach().sum(0))
        return outputs


@pytest.mark.parametrize("base", ["learned", "target"])
@pytest.mark.parametrize("what", ["data", "parameter"])
def test_targets_that_write_into_their_parameters_are_refused_and_unchanged(what, base):
    target = Writes(what)
    before = target.linear.weight.clone()
    for parameters in ("*", "linear.bias"):
        with pytest.raises(ParameterError, match="writes into its own parameters"):
            HyperNetwork(target, 1, parameters, base=base)(torch.randn(2, 6), condition=[0.5])
        assert torch.equal(target.linear.weight, before)


def test_targets_that_write_into_buffers_are_refused_per_example():
    target = Writes("buffer")
    hyper = awake(HyperNetwork(target, 1))
    hyper(torch.randn(2, 6), condition=[0.5])
    with pytest.raises(ParameterError, match="writes into its buffers seen"):
        hyper(torch.randn(2, 6), condition=torch.rand(2, 1))
    assert not target.seen.any()


def test_the_target_is_unchanged_after_an_error():
    target = cnn()
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(RuntimeError):
        HyperNetwork(target, 1)(torch.randn(2, 3, 8, 8), condition=[0.5])
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    assert target(torch.randn(2, 1, 8, 8)).requires_grad


def test_the_scale_of_weights_does_not_follow_that_of_the_condition():
    torch.manual_seed(0)
    for encoding, factor in (("cos_sin", 1.1), ("l2", 1.1), ("layer_norm", 1.1)):
        kind = "continuous" if encoding == "cos_sin" else "features"
        hyper = HyperNetwork(nn.Linear(64, 64), {kind: 16}, encoding=encoding, init_scale=1.0, hidden=[256, 256])
        small = torch.rand(8, 16) * 0.01
        sizes = [hyper.generate_stacked(c)["weight"].std() for c in (small, 100 * small)]
        assert 1 / factor < sizes[1] / sizes[0] < factor
    raw = HyperNetwork(nn.Linear(64, 64), {"features": 16}, encoding="none", init_scale=1.0)
    sizes = [raw.generate_stacked(c)["weight"].std() for c in (small, 100 * small)]
    assert sizes[1] / sizes[0] > 1.1


def test_a_hypernetwork_of_ones_own_becomes_magnitude_invariant():
    torch.manual_seed(0)
    target = nn.Linear(64, 64)

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 64 * 64 + 64))

        def forward(self, condition):
            values = self.net(condition)
            return {"weight": values[..., : 64 * 64].unflatten(-1, (64, 64)), "bias": values[..., 64 * 64 :]}

    wrapped = magnitude_invariant(Own(), target)
    small = torch.tensor([0.01, 0.005])
    first, second = wrapped(small)["weight"], wrapped(100 * small)["weight"]
    assert 1 / 1.1 < second.std() / first.std() < 1.1 and not torch.equal(first, second)
    assert 0.9 < first.std() / target.weight.std() < 1.1
    sum(value.sum() for value in wrapped(small).values()).backward()
    assert all(p.grad is not None for p in wrapped.parameters())
    with pytest.raises(GeneratorError, match="nn.Linear"):
        magnitude_invariant(nn.ReLU(), target)


def test_the_check_finds_faults():
    inputs = torch.randn(4, 6)
    assert HyperNetwork(mlp(), 1).check(inputs).ok
    assert awake(HyperNetwork(mlp(), 1)).check(inputs).ok
    zero = HyperNetwork(mlp(), 1)
    with torch.no_grad():
        zero.base.get("0.weight").zero_()
    assert any("0.weight" in problem and "zeros" in problem for problem in zero.check(inputs).problems)
    large = awake(HyperNetwork(mlp(), 1), std=100.0)
    assert any("activations of" in problem for problem in large.check(inputs).problems)
    dead = HyperNetwork(mlp(), 1)
    dead.scales.zero_()
    assert dead.check(inputs).dead_heads == ("0.weight", "0.bias", "2.weight", "2.bias")
    deaf = awake(HyperNetwork(mlp(), 1))
    nn.init.zeros_(deaf.trunk[0].weight)
    assert any("condition changes nothing" in problem for problem in deaf.check(inputs).problems)


def test_training_follows_the_task():
    import pytorch_lightning as pl

    torch.manual_seed(0)
    inputs = torch.randn(256, 6)
    labels = inputs[:, :3].argmax(1)
    hyper = HyperNetwork(mlp(), 1, hidden=[16])

    class Turned(HyperNetworkTraining):
        def prepare(self, batch, conditions):
            return batch[0], torch.where(conditions[:, 0] < 0.5, batch[1], (batch[1] + 1) % 3)

    module = Turned(hyper, steps=250, learning_rate=2e-2)
    trainer = pl.Trainer(
        max_steps=250, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False
    )
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, labels), batch_size=64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(workers|GPU|val_dataloader).*")
        trainer.fit(module, loader)
    for value, shift in ((0.1, 0), (0.9, 1)):
        accuracy = (hyper(inputs, condition=[value]).argmax(1) == (labels + shift) % 3).float().mean()
        assert accuracy > 0.8
