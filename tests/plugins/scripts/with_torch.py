import torch
from torch import nn
from typing_extensions import reveal_type

import gradreg_torch as gradreg

model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(4, 5), torch.tensor([0, 1, 2, 0])
reg = gradreg.SpectReg(0.01, projections=2) + gradreg.WeightDecay(1e-4)
criterion = gradreg.Criterion(reg=reg)
for step in range(3):
    total, parts = gradreg.loss(model, x, y, reg, step=step)
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
counted, _ = criterion(model, x, y)
reveal_type(reg)  # note: Revealed type is "gradreg_core.terms.Sum"
reveal_type(parts.penalty)  # note: Revealed type is "tuple[Any, ...]"
reveal_type(criterion(model, x, y))  # note: gradreg_core.results.Parts
reveal_type(gradreg.measure(model, x))  # note: gradreg_core.results.Measures
reveal_type(gradreg.check(model, x, y, reg).ok)  # note: Revealed type is "bool"
gradreg.loss(model, x, y, reg, stepp=1)  # error: "stepp"; did you mean "step"?
criterion(model, x, y, sample_id=y)  # error: "sample_id" for "__call__" of "Criterion"; did you mean "sample_ids"?
gradreg.SpectReg(0.01, projection=2)  # error: "projection" for "SpectReg"; did you mean "projections"?
gradreg.loss(model, x, y, 0.01)  # error: incompatible type "float"; expected "Regularizer | None"
gradreg.Criterion(reg)  # error: Argument 1 to "Criterion" has incompatible type "Sum"
