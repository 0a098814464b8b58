"""NumPyro's side of step.py: times the steps that it is asked for, in an interpreter that has NumPyro.

Arguments: pixels, hidden, latent, batch. Each line of the input names a kind ("jitted" or "scan") and a
number of steps; each line of the output is the seconds of CPU time that one of them took.
"""

import os
import sys
import time
from collections.abc import Callable

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, TraceMeanField_ELBO

IN_A_SCAN = 10


def network(key: jax.Array, sizes: tuple[int, int, int]) -> list[tuple[jax.Array, jax.Array]]:
    keys = jax.random.split(key, 2)
    return [
        (jax.random.uniform(k, (a, b), minval=-(a**-0.5), maxval=a**-0.5), jnp.zeros(b))
        for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def forward(layers: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
    (w, b), (v, c) = layers
    return jax.nn.relu(x @ w + b) @ v + c


def main(pixels: int, hidden: int, latent: int, batch: int) -> None:
    first = network(jax.random.PRNGKey(0), (pixels, hidden, 2 * latent))
    second = network(jax.random.PRNGKey(1), (latent, hidden, pixels))

    def model(x: jax.Array) -> None:
        decoder = numpyro.param("decoder", second)
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(latent), 1.0).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=forward(decoder, z)).to_event(1), obs=x)

    def guide(x: jax.Array) -> None:
        encoder = numpyro.param("encoder", first)
        with numpyro.plate("data", len(x)):
            mean, log_scale = jnp.split(forward(encoder, x), 2, axis=-1)
            numpyro.sample("z", dist.Normal(mean, jnp.exp(log_scale)).to_event(1))

    x = jnp.round(jax.random.uniform(jax.random.PRNGKey(2), (batch, pixels)))
    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), TraceMeanField_ELBO())
    state = svi.init(jax.random.PRNGKey(3), x)
    update = jax.jit(svi.update)

    @jax.jit
    def scan(state: object) -> tuple[object, jax.Array]:
        return jax.lax.scan(lambda state, _: svi.update(state, x), state, None, length=IN_A_SCAN)

    def jitted(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, loss = update(state, x)
            float(loss)

    def scanned(steps: int) -> None:
        nonlocal state
        for _ in range(steps // IN_A_SCAN):
            state, losses = scan(state)
            losses.block_until_ready()

    kinds: dict[str, Callable[[int], None]] = {"jitted": jitted, "scan": scanned}
    for line in sys.stdin:
        kind, steps = line.split()
        start = time.process_time()
        kinds[kind](int(steps))
        print((time.process_time() - start) / int(steps), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
