"""The page of the explorer that the site embeds: a small network that has learnt the digits."""

import torch

import eqprop


def page() -> str:
    """It, as HTML."""
    torch.manual_seed(0)
    data = eqprop.load_dataset("digits")
    model = eqprop.RealTimeNetwork(
        eqprop.dense(64, 32, 10), epsilon=0.5, updates="synchronous", clip=(0.0, 1.0)
    )
    estimator = eqprop.EquilibriumPropagation(30, 10, 0.5, "symmetric")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    *_, last = eqprop.train(model, estimator, optimizer, data, epochs=5)
    return eqprop.explorer_page(
        model,
        data.test.images[:100],
        data.test.labels[:100].tolist(),
        classes=[str(number) for number in range(10)],
        cost=eqprop.SquaredError(),
        free_steps=60,
        nudged_steps=20,
        beta=0.1,
        title="Digits: how a network settles",
        subtitle=f"64-32-10, real time; test error {last.test_error:.1f} %",
    )
