"""Equilibrium Propagation in PyTorch.

Train networks that settle to a steady state by comparing two of them::

    import torch, eqprop

    data = eqprop.load_dataset("digits")
    model = eqprop.PrototypicalNetwork(eqprop.dense(64, 128, 10))
    estimator = eqprop.EquilibriumPropagation(free_steps=20, nudged_steps=8, beta=0.5)
    optimizer = torch.optim.SGD(model.parameter_groups([0.1, 0.05]))
    for metrics in eqprop.train(model, estimator, optimizer, data, epochs=5):
        print(metrics)

The public names are listed in ``__init__.pyi`` and loaded at first use, so that ``eqprop --help``
does not wait for torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
