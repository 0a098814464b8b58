"""What a sender and a decoder must be to make a bound, and the sentence that says so where they are not."""

import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_infomax.infer import Trace_IM, TraceEnum_IM, transmitted_information


def send():
    x = pyro.sample("x", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(x, 1.0))


def decode(y):
    pyro.sample("x", dist.Normal(y / 2, 1.0))


def send_observing():
    return pyro.sample("y", dist.Normal(pyro.sample("x", dist.Normal(0.0, 1.0)), 1.0), obs=torch.tensor(1.0))


def send_with_factor():
    pyro.factor("f", torch.tensor(1.0), has_rsample=True)
    return send()


def send_without_return():
    send()


def send_point_mass():
    x = pyro.sample("x", dist.Delta(torch.tensor(1.0)))
    return pyro.sample("y", dist.Normal(x, 1.0))


def send_deterministic():
    x = pyro.deterministic("x", pyro.sample("s", dist.Normal(0.0, 1.0)))
    return pyro.sample("y", dist.Normal(x, 1.0))


def send_discrete():
    return pyro.sample("y", dist.Normal(pyro.sample("x", dist.Bernoulli(0.5)), 1.0))


def send_scaled():
    with poutine.scale(scale=2.0):
        return send()


def send_in_plate():
    with pyro.plate("uses", 4):
        return send()


def send_masked():
    with pyro.plate("uses", 2), poutine.mask(mask=torch.tensor([True, False])):
        return send()


def decode_in_plate(y):
    with pyro.plate("uses", 2):
        decode(y)


def decode_subsampled(y):
    with pyro.plate("uses", 8, subsample_size=4):
        decode(y)


def decode_other(y):
    pyro.sample("w", dist.Normal(y, 1.0))


def decode_with_factor(y):
    decode(y)
    pyro.factor("f", y)


def decode_observing(y):
    pyro.sample("x", dist.Normal(y, 1.0), obs=torch.tensor(1.0))


def decode_nothing(y):
    pyro.deterministic("twice", 2 * y)


WRONG = {
    "a channel that observes": (decode, send_observing, "draw every site but 'y' is observed"),
    "a factor in the channel": (decode, send_with_factor, "draw every site but 'f' is a factor"),
    "nothing is returned": (decode, send_without_return, "got None: end it with `return y`"),
    "a point mass": (decode, send_point_mass, "'x', .* is a point mass"),
    "a deterministic site": (decode, send_deterministic, "'x', .* is a point mass"),
    "mixed kinds": (decode, send_discrete, "Bernoulli in the sender and Normal in the decoder"),
    "a scale on one side": (decode, send_scaled, "'x' to count alike .* scale is 2.0 .* and 1.0"),
    "a subsample on one side": (decode_subsampled, send_in_plate, "'x' to count alike .* is 1.0 .* and 2.0"),
    "a mask on one side": (decode_in_plate, send_masked, r"mask is a tensor of shape \(2,\) .* and None"),
    "a site that is not sent": (decode_other, send, r"\['x', 'y'\], but got 'w'"),
    "a factor in the decoder": (decode_with_factor, send, "normalised decoder but got the factor 'f'"),
    "an observation of what is sent": (decode_observing, send, "'x' as the sender drew it but it has obs="),
    "nothing is scored": (decode_nothing, send, r"\['x', 'y'\], or data by obs= but it scores nothing"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("evaluate", [Trace_IM().loss, TraceEnum_IM().loss, transmitted_information])
def test_programs_that_make_no_bound_are_refused_in_one_sentence(case, evaluate):
    decoder, sender, expected = WRONG[case]
    with pytest.raises(ValueError) as caught:
        evaluate(decoder, sender)
    message = str(caught.value)
    assert re.search(expected, message), message
    assert message.startswith("Expected ")
    assert "\n" not in message


@pytest.mark.parametrize("site", ["x", "y"])
def test_a_continuous_site_cannot_be_enumerated(site):
    def sender():
        marks = {name: {"enumerate": "parallel"} if name == site else {} for name in ("x", "y")}
        x = pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1), infer=marks["x"])
        return pyro.sample("y", dist.Normal(x, 1.0).to_event(1), infer=marks["y"])

    with pytest.raises(NotImplementedError, match=f"finite support to enumerate '{site}' but got Normal"):
        TraceEnum_IM(max_plate_nesting=0).loss(lambda y: decode(y), sender)


def test_deterministic_sites_and_parameters_are_let_pass():
    def sender():
        x = pyro.sample("x", dist.Normal(0.0, pyro.param("scale", torch.tensor(1.0))))
        return pyro.sample("y", dist.Normal(pyro.deterministic("signal", 2 * x), 1.0))

    def decoder(y):
        pyro.deterministic("estimate", y / 2)
        decode(y)

    assert Trace_IM().loss_and_grads(decoder, sender) != 0
    assert pyro.param("scale").grad != 0


def test_several_things_may_be_received_and_arguments_reach_both_programs():
    def sender(gain, *, shift):
        x = pyro.sample("x", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal(gain * x + shift, 1.0)), "side information"

    def decoder(received, gain, *, shift):
        y, side = received
        assert side == "side information"
        pyro.sample("x", dist.Normal((y - shift) / gain, 1.0))

    im = Trace_IM(num_particles=20_000, vectorize_particles=True, max_plate_nesting=0)
    bound = -im.loss(decoder, sender, 2.0, shift=torch.tensor(5.0))
    # x − (y − shift)/gain is noise of variance 1/4, so that the bound is 1/2 − 1/8
    assert abs(bound - 0.375) < 5 * (0.5 + 2 * 0.25**2 / 4) ** 0.5 / 20_000**0.5
