"""Everything that is drawn, and the tables beside it: of any model, from tensors and numbers.

What ``eqprop theorem`` and ``eqprop show`` tell of a run can be had of a model in Python::

    import eqprop
    import torch

    model = eqprop.RealTimeNetwork(eqprop.dense(64, 32, 10), "tanh", epsilon=0.5).double()
    x = torch.rand(20, 64, dtype=torch.float64)
    y = torch.eye(10, dtype=torch.float64).repeat(2, 1)

    steps = {"free_steps": 150, "nudged_steps": 15}
    found = eqprop.diagnose(model, [(x, y)], beta=0.01, **steps)
    print(eqprop.theorem_text(found))
    eqprop.draw_processes(found, "states", "states.png")
    eqprop.draw_layers(found, "layers.png")
    eqprop.draw_error_against_beta(found, "error-against-beta.png")

    settled = eqprop.settling_steps(model, x, y, beta=0.1, most=500, tolerance=1e-4)
    print(settled.said)
    print(eqprop.settling_text(settled))
    eqprop.draw_settling(settled, "settling.png")

    both = eqprop.phases(model, x, y, beta=0.1, **steps)
    eqprop.draw_phases(both, x, "phases.png")
    moves, outputs = eqprop.residual_by_step(model, x, 60), eqprop.output_by_step(model, x, 60)
    eqprop.draw_convergence(moves, outputs, "convergence.png", title="free phase")

The model may be one of your own, whatever it derives from. Besides, ``draw_sweep`` draws what
``sweep`` finds over a grid of β, T and K, ``draw_error_by_step`` what ``error_by_step`` finds of a
:class:`~eqprop.data.dataset.Split` with labels, ``draw_weight_images`` the images that
``weight_images`` finds in a layered network, and ``draw_curves`` what ``train`` gives by epoch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
