"""A Lipschitz-constrained policy: PPO on Pendulum, with a penalty on the gradient of the log-probability.

The penalty is from Chen et al., Learning Smooth Humanoid Locomotion through Lipschitz-Constrained Policies, 2024:
the mean squared norm of the gradient of log pi(a | s) with respect to s. This is DataGrad with the loss -log pi(a | s).

Run: python examples/policy.py
"""

import argparse
from collections.abc import Iterator

import gymnasium
import torch
from torch import nn
from torch.distributions import Normal

import gradreg_torch as gradreg

ENVIRONMENTS, HORIZON, DISCOUNT = 16, 64, 0.9


def network() -> nn.Module:
    """One number per observation of 3 components."""
    return nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))


class Policy(nn.Module):
    """The mean of a Gaussian over torques, as a fraction of the largest torque."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network()
        self.log_deviation = nn.Parameter(torch.zeros(1))

    def forward(self, s: torch.Tensor) -> torch.Tensor:
        return self.body(s)

    def negative_log_probability(self, mean: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """The loss per sample."""
        return -Normal(mean, self.log_deviation.exp()).log_prob(action).sum(-1)


def advantages(rewards: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Generalised advantage estimates (T, N) of rewards (T, N) and values (T + 1, N), with lambda 0.95."""
    result, running = torch.zeros_like(rewards), torch.zeros(rewards.shape[1])
    for t in reversed(range(len(rewards))):
        running = rewards[t] + DISCOUNT * values[t + 1] - values[t] + DISCOUNT * 0.95 * running
        result[t] = running
    return result


def rollouts(envs: gymnasium.vector.VectorEnv, policy: Policy, seed: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Observations (T + 1, N, 3), actions (T, N, 1) and rewards (T, N), from one horizon after another."""
    s = torch.tensor(envs.reset(seed=seed)[0])
    while True:
        observations, actions, rewards = [s], [], []
        for _ in range(HORIZON):
            with torch.no_grad():
                action = Normal(policy(s), policy.log_deviation.exp()).sample()
            after, reward, *_ = envs.step((2 * action.clamp(-1, 1)).numpy())
            s = torch.tensor(after)
            observations.append(s)
            actions.append(action)
            rewards.append(torch.tensor(reward, dtype=torch.float32) / 8)
        yield torch.stack(observations), torch.stack(actions), torch.stack(rewards)


def train(reg: gradreg.Regularizer | None, iterations: int, seed: int) -> Policy:
    """A policy after `iterations` rollouts of 16 environments for 64 steps each."""
    torch.manual_seed(seed)
    envs = gymnasium.make_vec("Pendulum-v1", ENVIRONMENTS)
    policy, critic = Policy(), network()
    optimizer = torch.optim.Adam([*policy.parameters(), *critic.parameters()], 1e-3)
    step = 0
    for _, (observations, actions, rewards) in zip(range(iterations), rollouts(envs, policy, seed), strict=False):
        s, a = observations[:-1].flatten(0, 1), actions.flatten(0, 1)
        with torch.no_grad():
            values = critic(observations).squeeze(-1)
            gains = advantages(rewards, values).flatten()
            before = policy.negative_log_probability(policy(s), a)
        returns = gains + values[:-1].flatten()
        gains = (gains - gains.mean()) / gains.std()
        for batch in torch.cat([torch.randperm(len(s)) for _ in range(5)]).split(256):
            # One forward pass gives the means for the surrogate and the penalty for the actions taken.
            _, parts = gradreg.loss(policy, s[batch], a[batch], reg, step=step, loss_fn=policy.negative_log_probability)
            ratio = (before[batch] - policy.negative_log_probability(parts.outputs, a[batch])).exp()
            surrogate = -torch.minimum(ratio * gains[batch], ratio.clamp(0.8, 1.2) * gains[batch]).mean()
            error = nn.functional.mse_loss(critic(s[batch]).squeeze(-1), returns[batch])
            optimizer.zero_grad()
            (surrogate + 0.5 * error + sum(parts.penalty)).backward()
            optimizer.step()
            step += 1
    envs.close()
    return policy


def evaluate(policy: Policy, noise: float, seed: int = 10**6) -> tuple[float, float]:
    """(mean return of an episode, mean change of the torque per step) under noise on the observations."""
    generator = torch.Generator().manual_seed(seed)
    envs = gymnasium.make_vec("Pendulum-v1", 16)
    s, torques, total = torch.tensor(envs.reset(seed=seed)[0]), [], 0.0
    for _ in range(200):
        with torch.no_grad():
            torques.append(2 * policy(s + noise * torch.randn(s.shape, generator=generator)).clamp(-1, 1))
        after, reward, *_ = envs.step(torques[-1].numpy())
        s, total = torch.tensor(after), total + reward.mean()
    envs.close()
    return total, torch.stack(torques).diff(dim=0).abs().mean().item()


def main(iterations: int, seeds: int, noise: float) -> dict[str, dict[str, float]]:
    """For each method: return and change of the torque per step without and with noise, mean Jacobian norm."""
    results = {}
    print(f"{'':13}{'return':>8}{'change':>8}{'with noise: return':>20}{'change':>8}{'norm':>8}")
    for name, reg in {"plain": None, "constrained": gradreg.DataGrad(0.005)}.items():
        sums = torch.zeros(5)
        for seed in range(seeds):
            policy = train(reg, iterations, seed)
            angles = torch.linspace(-3, 3, 500)
            states = torch.stack([angles.cos(), angles.sin(), torch.zeros(500)], 1)
            norm = gradreg.measure(policy, states).frobenius.mean()
            sums += torch.tensor([*evaluate(policy, 0.0), *evaluate(policy, noise), norm])
        keys = ("return", "change", "noisy_return", "noisy_change", "norm")
        results[name] = dict(zip(keys, (sums / seeds).tolist(), strict=True))
        print(
            f"{name:13}{{return:8.0f}}{{change:8.2f}}{{noisy_return:20.0f}}{{noisy_change:8.2f}}{{norm:8.2f}}".format(
                **results[name]
            )
        )
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--noise", type=float, default=0.1)
    main(**vars(parser.parse_args()))
